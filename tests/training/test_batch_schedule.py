"""Batch warm-up: batches remain a function of (seed, step), and tokens are counted correctly, also after a restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError, UsageError
from bitgolf.pipeline.training import TrainingJob, train_rank
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training import loop
from bitgolf.training.batch_schedule import BatchShape, BatchSizeWarmup, SequenceLengthWarmup
from bitgolf.training.graphs import warm_up_graphs
from bitgolf.training.settings import Train
from helpers.toy_training import STEPS, FakeTime, before_step, make_trainer, newest, no_report, same, short_recipe

BATCH = part(BatchSizeWarmup, milestones=((0.0, 0.5), (0.3, 0.75), (0.6, 1.0)))
LENGTH = part(SequenceLengthWarmup, milestones=((0.0, 0.25), (0.5, 1.0)))
SHAPES = [*[(2, 8)] * 3, (3, 8), *[(3, 32)] * 1, *[(4, 32)] * 3]  # of 4 x 32, in 8 steps
TOKENS = np.cumsum([rows * length for rows, length in SHAPES]).tolist()


def ramped(recipe: Spec[Recipe] | None = None) -> Spec[Recipe]:
    return (recipe or short_recipe()).set("train.batch_warmup", (BATCH, LENGTH))


def settings(**changes: Any) -> Train:
    return short_recipe()().train.replace(**changes)()


def test_a_batch_grows_by_the_fraction_of_the_run() -> None:
    grown = settings(batch_warmup=(BATCH, LENGTH))
    assert [grown.batch_shape(step / 8) for step in range(8)] == SHAPES
    assert grown.batch_shape_starts == [0.0, 0.3, 0.5, 0.6] and grown.batch_shape(1.0) == BatchShape(4, 32)
    assert settings().batch_shape(0.0) == BatchShape(4, 32) and settings().batch_shape_starts == [0.0]
    assert BatchShape(4, 32).tokens == 128


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((), r"got \[\]"),
        (((0.1, 0.5), (0.5, 1.0)), "must start at 0"),
        (((0.0, 0.5), (0.5, 0.75), (0.5, 1.0)), "and increase"),
        (((0.0, 0.5), (1.0, 1.0)), "below 1, got 1"),
        (((0.0, 0.0), (0.5, 1.0)), r"milestones\.0\.1: must be above 0 and at most 1, got 0"),
        (((0.0, 0.5), (0.5, 1.5)), "at most 1"),
        (((0.0, 0.5),), "must change the share"),
        (((0.0, 0.5), (0.5, 0.5)), "must change the share"),
        (((0.0, 0.3), (0.5, 1.0)), r"0\.3 of 4 is not a whole number"),
    ],
)
def test_a_ramp_that_makes_no_sense_is_refused_with_its_recipe(
    parts: tuple[tuple[float, float], ...], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        settings(batch_warmup=(part(BatchSizeWarmup, milestones=parts),))


def test_rows_of_one_token_are_refused() -> None:
    with pytest.raises(RecipeError, match="at least 1 row of 2 tokens, got 4 of 1"):
        settings(batch_warmup=(part(SequenceLengthWarmup, milestones=((0.0, 1 / 32), (0.5, 1.0))),))


def test_a_smaller_batch_is_the_beginning_of_the_whole_one(data: Path) -> None:
    trainer = make_trainer(data, ramped())
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    trainer.loss_module.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], inputs[1])))
    for step, (rows, length) in enumerate(SHAPES):
        seen.clear()
        trainer.step(step, TrainingProgress(step, STEPS, 0.0, 0.0))
        whole = trainer.batches.load_batch(step)
        assert [pair[0].shape for pair in seen] == [(rows, length)]
        for given, expected in zip(seen[0], whole, strict=True):
            assert given.tolist() == expected[:rows, :length].tolist()


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_a_smaller_batch(data: Path, world_size: int) -> None:
    source = make_trainer(data, short_recipe().set("train.rows", 8)).batches
    shares = [source.load_batch(5, rank, world_size, rows=4, length=7).inputs for rank in range(world_size)]
    assert np.concatenate(shares).tolist() == source.load_batch(5).inputs[:4, :7].tolist()
    with pytest.raises(UsageError, match="3 rows cannot be divided evenly among 2 ranks"):
        source.load_batch(0, 0, 2, rows=3)


def test_rows_that_the_ranks_cannot_share_later_are_an_error_at_the_start(data: Path) -> None:
    with pytest.raises(UsageError, match="3 rows cannot be divided evenly among 2 ranks"):
        make_trainer(data, ramped(), distributed=DistributedContext(world_size=2))


def test_a_loss_is_the_mean_over_the_smaller_batch_however_it_is_accumulated(data: Path) -> None:
    losses = []
    for micro in (0, 2):
        trainer = make_trainer(data, ramped().set("train.micro_rows", micro), noisy=False)
        inputs, targets = map(torch.from_numpy, trainer.batches.load_batch(0, rows=2, length=8))
        before = trainer.probe_loss(inputs, targets)
        losses.append([float(trainer.step(step, TrainingProgress(step, STEPS, 0.0, 0.0))) for step in range(STEPS)])
        assert losses[-1][0] == pytest.approx(before, rel=1e-5)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_each_shape_is_warmed_up(data: Path) -> None:
    trainer = make_trainer(data, ramped())
    before = trainer.clone_state()
    shapes = set()
    trainer.loss_module.register_forward_hook(lambda module, inputs, output: shapes.add(tuple(inputs[0].shape)))
    warm_up_graphs(trainer, 1)
    assert shapes == set(SHAPES) and same(trainer.state_dict(), before)


def test_what_shares_a_graph_is_warmed_up_once(data: Path) -> None:
    """A batch shape that recurs needs no second warm-up, unless the phase differs; each warm-up is timed."""
    ramp = part(BatchSizeWarmup, milestones=((0.0, 0.5), (0.3, 1.0), (0.6, 0.5)))
    trainer = make_trainer(data, short_recipe().set("train.batch_warmup", (ramp,)))
    rows: list[int] = []
    trainer.loss_module.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    seconds = warm_up_graphs(trainer, 2)
    assert rows == [2, 2, 4, 4] and list(seconds) == [0.0, 0.3] and min(seconds.values()) > 0
    trainer.phases.starts = [0.6]
    assert list(warm_up_graphs(trainer, 1)) == [0.0, 0.3, 0.6]


def test_tokens_are_counted_as_trained(tmp_path: Path, data: Path) -> None:
    counted: list[int] = []

    def report(kind: str, **fields: Any) -> None:
        if kind == "step":
            counted.append(fields["tokens"])

    result = loop.train(make_trainer(data, ramped()), tmp_path, report, resume=False)
    assert counted == TOKENS and result.tokens == TOKENS[-1] == newest(tmp_path).meta["tokens"]


def test_on_the_clock_a_restart_goes_on_counting(tmp_path: Path, data: Path, clock: FakeTime) -> None:
    """8 s with 1 s per step, saved every 3.5 s. Batch shapes follow the clock, so steps do not determine tokens."""
    recipe = ramped(short_recipe(seconds=8.0, steps=0, every=3.5))
    counted: list[tuple[int, int]] = []

    def report(kind: str, **fields: Any) -> None:
        if kind == "step":
            counted.append((fields["step"], fields["tokens"]))

    def act(step: int) -> None:
        if step == 6:
            raise RuntimeError("the machine is on fire")
        clock.advance(1.0)

    with pytest.raises(RuntimeError):
        loop.train(before_step(make_trainer(data, recipe), act), tmp_path, report, resume=False)
    clock.advance(1000.0)
    result = loop.train(
        before_step(make_trainer(data, recipe), lambda _: clock.advance(1.0)), tmp_path, report, resume=True
    )
    assert counted == [*enumerate(TOKENS[:6], 1), *enumerate(TOKENS[4:], 5)]
    assert (result.steps, result.tokens) == (8, TOKENS[-1])


@pytest.mark.parametrize(("steps", "often"), [(8, False), (200, True)])
def test_a_run_says_how_often_it_read_its_text(tmp_path: Path, data: Path, steps: int, often: bool) -> None:
    recipe = short_recipe(steps=steps).set("train.rows", 2).set("train.length", 200).set("model.layers", 1)
    log = RunLog(tmp_path, quiet=True)
    summary = train_rank(TrainingJob(recipe=recipe, data=data, folder=tmp_path), log)
    log.close()
    saved = json.loads((tmp_path / "train.json").read_text())
    assert saved["epochs"] == summary.epochs and (summary.epochs > 1) == often
    tokens = make_trainer(data).batches.stream
    assert summary.epochs == pytest.approx(steps * 400 / len(tokens))
    said = "training read its text" in (tmp_path / "log.jsonl").read_text()
    assert said == often


def test_without_a_ramp_each_step_counts_whole(tmp_path: Path, data: Path) -> None:
    assert loop.train(make_trainer(data), tmp_path, no_report, resume=False).tokens == STEPS * 4 * 32
