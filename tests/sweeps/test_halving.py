"""Successive halving that continues its trainings: no step is trained twice, and results are those of whole trainings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bitgolf.commands.sweep_table import sweep_runs_table
from bitgolf.config.spec import Spec, part
from bitgolf.files import file_digest, read_json
from bitgolf.sweeps.estimate import expected_cost
from bitgolf.sweeps.factors import BASE, FactorLevel
from bitgolf.sweeps.folder import RunUnit
from bitgolf.sweeps.search.halving import SuccessiveHalving
from bitgolf.sweeps.summary import SweepSummary
from bitgolf.sweeps.sweep import Sweep
from bitgolf.sweeps.waves import training_identity
from bitgolf.training.trainer import Trainer
from helpers.toy_sweeps import BITS, comparable, executed_stages, plain, run_toy_sweep, toy_sweep

RATES = tuple(part(FactorLevel, name=f"lr {lr:g}", edits=(f"Muon.lr={lr:g}",)) for lr in (0.1, 0.01, 0.0))
BEST = "lr 0.1"
HALVING = part(SuccessiveHalving, first=0.25, tokens=300)


def halving(*levels: Spec[FactorLevel], search: Spec[SuccessiveHalving] = HALVING) -> Spec[Sweep]:
    return toy_sweep(*(levels or RATES), seeds=(0,), search=search)


def artifacts(folder: Path) -> dict[str, str]:
    return {file.parent.name: file_digest(file) for file in folder.glob("*/artifact.bg")}


@contextmanager
def counted_steps(last: int = 10**6) -> Iterator[list[int]]:
    """The number of each step that is trained within the block, in order. last: count at which a step is interrupted."""
    seen, original = list[int](), Trainer.step

    def step(self: Trainer, number: int, *args: Any) -> Any:
        if len(seen) == last:
            raise KeyboardInterrupt
        seen.append(number)
        return original(self, number, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        yield seen


@pytest.fixture(scope="module")
def whole(fast_scoring: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SweepSummary]:
    """The sweep whose runs are all trained without interruption: (its folder, its result)."""
    folder = tmp_path_factory.mktemp("whole") / "sweep"
    return folder, run_toy_sweep(folder, toy_sweep(*RATES, seeds=(0,)))


@pytest.fixture(scope="module")
def continued(fast_scoring: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SweepSummary, list[int]]:
    """A halving of the same variants: (its folder, its result, the steps that were trained)."""
    folder = tmp_path_factory.mktemp("continued") / "sweep"
    with counted_steps() as steps:
        return folder, run_toy_sweep(folder, halving()), steps


Continued = tuple[Path, SweepSummary, list[int]]


def test_a_round_continues_the_trainings_of_the_one_before(
    whole: tuple[Path, SweepSummary], continued: Continued
) -> None:
    folder, summary, steps = continued
    rounds = [(found["share"], found["variants"]) for found in summary.rounds]
    assert rounds == [
        (0.25, ["base", "lr 0.1", "lr 0.01", "lr 0"]),
        (0.5, ["base", BEST]),
        (1.0, ["base", BEST]),
    ]
    assert steps == [*([0, 1] * 4), *([2, 3] * 2), *([4, 5, 6, 7] * 2)], "no step is trained twice"
    assert executed_stages(folder)["train"] == 2
    for name, digest in artifacts(folder).items():
        assert digest == artifacts(whole[0])[name], "the same bits as without interruption"
    expected, last = {row.name: row.mean for row in whole[1].variants}, summary.variants[:2]
    assert {row.share for row in last} == {1.0} and all(row.mean == expected[row.name] for row in last)


def test_the_table_has_the_scores_of_unfinished_trainings(continued: Continued) -> None:
    _, summary, _ = continued
    first = [row for row in summary.variants if row.share == 0.25]
    assert len(first) == 4 and {row.prefix_tokens for row in first} == {300}
    for row in first:
        (run,) = row.runs
        (score, *_) = read_json(Path(run.run) / "prefix_scores.json")["scores"]
        assert run.steps == score["step"] == 2 and run.bpb == score["bpb"] == row.mean and row.bytes is None
    assert "their weights there, on the first 300 held-out tokens" in sweep_runs_table(summary)
    stopped = read_json(Path(first[-1].runs[0].run) / "stopped.json")
    assert stopped["when"] == "after step 2" and stopped["reason"] == "0.25 of the training is done"


def test_the_cost_has_the_trainings_that_were_left_unfinished(continued: Continued) -> None:
    folder, summary, _ = continued
    scores = [score for file in folder.glob("*/prefix_scores.json") for score in read_json(file)["scores"]]
    stages = [stage for file in folder.glob("*/stages.json") for stage in read_json(file).values()]
    seconds = [row["seconds"] for row in [*scores, *stages] if "taken_from" not in row]
    assert len(scores) == 6 and summary.cost.unit == "core-hours"
    assert summary.cost.spent == pytest.approx(sum(seconds) * scores[0]["threads"] / 3600)


def test_the_cost_of_what_is_left_is_estimated() -> None:
    base = toy_sweep()["recipe"]
    clock = base.set("train", base["train"].replace(seconds=36.0, steps=0))
    units = [RunUnit(BASE, seed, clock, 0.5, 300) for seed in (0, 1)]
    assert expected_cost(units, (), 10) == "2 trainings on a clock: about 0.100 device-hours"
    done = {training_identity(units[0]): 0.25}
    assert expected_cost(units, (), 10, done) == "2 trainings on a clock: about 0.075 device-hours"


def test_after_interruptions_the_same_rounds_follow(continued: Continued, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    for last in (3, 7, 3):  # in the first round, in the second and in the third
        with counted_steps(last), pytest.raises(KeyboardInterrupt):
            run_toy_sweep(folder, halving())
    assert comparable(plain(run_toy_sweep(folder, halving()))) == comparable(plain(continued[1]))
    assert artifacts(folder) == artifacts(continued[0])


def test_variants_with_the_same_training_are_trained_once_and_kept_together(tmp_path: Path) -> None:
    bits = tuple(part(FactorLevel, name=f"{n} bits", edits=(f"{BITS}={n}",)) for n in (3, 3.5))
    with counted_steps() as steps:
        summary = run_toy_sweep(tmp_path / "sweep", halving(*bits))
    assert steps == list(range(8)), "one training for all"
    assert [len(found["variants"]) for found in summary.rounds] == [3, 3, 3]
    assert len([row for row in summary.variants if row.share == 1 and row.bytes]) == 3


def test_rounds_of_trainings_of_their_own(tmp_path: Path) -> None:
    search = part(SuccessiveHalving, first=0.5, restart=True)
    with counted_steps() as steps:
        summary = run_toy_sweep(tmp_path / "sweep", halving(RATES[0], search=search))
    assert steps == [*([*range(4)] * 2), *([*range(8)] * 2)] and {row.prefix_tokens for row in summary.variants} == {0}
    assert "started again at 1 of the training" in summary.rounds[1]["reason"]
    assert all(row.bytes for row in summary.variants), "each is a finished model"


def test_a_score_that_is_not_known_is_named(whole: tuple[Path, SweepSummary]) -> None:
    rows = run_toy_sweep(whole[0], halving(RATES[0])).variants
    assert {row.share for row in rows if "trained beyond" in row.stopped and "choose another --out" in row.stopped} == {
        0.25,
        0.5,
    }
