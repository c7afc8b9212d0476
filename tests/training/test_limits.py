"""The end of the loop: at numbers that are not finite, and at the limits of steps and time."""

from __future__ import annotations

import math
from itertools import chain, repeat
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitgolf.config.spec import Spec
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training import checkpoint, loop
from bitgolf.training.checkpoint_writer import HostSnapshot
from bitgolf.training.loop import train
from bitgolf.training.loss_reporter import Diverged, LossReporter
from bitgolf.training.trainer import Trainer
from helpers.toy_training import (
    FakeTime,
    at,
    before_step,
    crash,
    logger,
    make_trainer,
    newest,
    no_report,
    short_recipe,
)


def record_clock(trainer: Trainer) -> list[float]:
    """The elapsed seconds that schedules receive at each step."""
    seen: list[float] = []
    original = trainer.step

    def recorded(step: int, progress: TrainingProgress) -> Tensor:
        seen.append(progress.elapsed_seconds)
        return original(step, progress)

    trainer.step = recorded
    return seen


# ---- numbers that are none -------------------------------------------------------------------------------------


def spoil(trainer: Trainer, value: float) -> None:
    with torch.no_grad():
        trainer.params["blocks.0.mlp.up.weight"][0, 0] = value


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, data: Path, value: float) -> None:
    trainer = make_trainer(data, short_recipe(every=0.0))
    before_step(trainer, at(4, lambda: spoil(trainer, value)))
    losses: list[float] = []
    with pytest.raises(Diverged, match=r"the loss is nan at step 5\n.*learning rates.*train\.grad_clip.*--resume"):
        train(trainer, tmp_path, logger(losses), resume=False)
    found = newest(tmp_path)
    assert found.step == len(losses) == 4 and all(t.isfinite().all() for t in found.tensors.values())


def test_losses_read_late_name_the_right_step(tmp_path: Path, data: Path) -> None:
    """Losses are read one step late, as on a GPU."""
    trainer = make_trainer(data)
    steps: list[int] = []
    losses = LossReporter(trainer, lambda kind, **fields: steps.append(fields["step"]), lambda: 0.0, every=4)
    for step, value in enumerate([3.0, 2.0, 1.0, 0.5, 2.0, math.nan, 1.0], start=1):
        losses.record(step, 128 * step, torch.tensor(value))
        assert steps == ([1, 2, 3, 4] if step >= 4 else [])
    with pytest.raises(Diverged, match="nan at step 6"):
        losses.flush()
    assert steps == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["weights", "optimizer", "average"])
def test_a_state_that_is_not_finite_is_not_saved(tmp_path: Path, data: Path, name: str) -> None:
    """The loss of a step does not cover the update that follows it."""
    trainer = make_trainer(data, short_recipe(every=0.0))
    update = trainer.optimizer_step

    def spoiled(progress: TrainingProgress) -> None:
        update(progress)
        if progress.step == 4:
            next(t for k, t in trainer.state_dict().items() if k.startswith(name) and t.dim() == 2)[0, 0] = math.inf

    trainer.optimizer_step = spoiled
    with pytest.raises(Diverged, match=rf"{name}/.* is not finite after step 5\n"):
        train(trainer, tmp_path, no_report, resume=False)
    assert newest(tmp_path).step == 4


def test_a_learning_rate_that_is_far_too_high(tmp_path: Path, data: Path) -> None:
    recipe = short_recipe(every=0.0)
    use = recipe["train.optim.1.use"]
    wild = recipe.set("train.optim.1.use", Spec(use.cls, {**use.kwargs, "lr": 1e30}))  # `part` refuses such a rate
    with pytest.raises(Diverged):
        train(make_trainer(data, wild), tmp_path, no_report, resume=False)
    found = checkpoint.load_latest(tmp_path)
    assert found is None or all(t.isfinite().all() for t in found.tensors.values())


# ---- the clock -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "steps", "done"), [(5.5, 0, 6), (5.0, 0, 5), (0.5, 0, 1), (3.5, 3, 3), (3.5, 5, 4), (100.0, 8, 8)]
)
def test_training_ends_at_the_first_step_past_a_limit(
    tmp_path: Path, data: Path, clock: FakeTime, seconds: float, steps: int, done: int
) -> None:
    trainer = before_step(
        make_trainer(data, short_recipe(seconds=seconds, steps=steps)), lambda number: clock.advance(1.0)
    )
    result = train(trainer, tmp_path, no_report, resume=False)
    found = newest(tmp_path)
    assert result[:3] == (done, done * 4 * 32, float(done)) and found.step == done
    assert found.meta["elapsed"] == result.training_seconds and found.meta["paths"] == list(trainer.params)
    assert result.loss == found.meta["loss"] and math.isfinite(result.loss)


@pytest.mark.parametrize("seconds", [5.5, 5.0, 40.2])
def test_a_device_that_is_a_step_behind_does_not_train_beyond_the_limit(
    tmp_path: Path, data: Path, clock: FakeTime, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """As on a GPU, a step of 1 s runs while the next is launched; the limit is exceeded by less than one step."""
    running: list[int] = []
    made = make_trainer(data, short_recipe(seconds=seconds, steps=0))

    def wait() -> None:
        clock.advance(1.0 * len(running))
        running.clear()

    monkeypatch.setattr(LossReporter, "record", lambda losses, *step: None)  # none is read before it is asked for
    monkeypatch.setattr(LossReporter, "flush", lambda losses: wait())
    result = train(
        before_step(made, lambda number: (wait(), running.append(number))), tmp_path, no_report, resume=False
    )
    assert result.steps == result.training_seconds == math.ceil(seconds)


def test_the_clock_goes_on_where_it_stopped(
    tmp_path: Path, data: Path, clock: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock includes copying the state, but not the time between two runs, nor steps that were lost."""
    take = HostSnapshot.start
    monkeypatch.setattr(HostSnapshot, "start", lambda self, state: (clock.advance(0.25), take(self, state))[1])

    def trainer(when: int) -> Trainer:
        made = make_trainer(data, short_recipe(seconds=8.0, steps=0, every=2.0))
        return before_step(made, lambda number: (at(when, crash)(number), clock.advance(1.0)))

    with pytest.raises(RuntimeError):
        train(trainer(5), tmp_path, no_report, resume=False)
    assert newest(tmp_path).meta["elapsed"] == 4.25  # steps 1 and 2, the first copy, steps 3 and 4
    clock.advance(500.0)
    made = trainer(-1)
    seen = record_clock(made)
    assert train(made, tmp_path, no_report, resume=True)[:3] == (8, 8 * 4 * 32, 8.5)
    assert seen == [4.25, 5.25, 6.5, 7.5]


def test_a_limit_that_is_given_is_kept_when_the_run_goes_on(tmp_path: Path, data: Path, clock: FakeTime) -> None:
    """The limit is stored in the checkpoint, so that schedules, phases and the end do not change on resume."""

    def trainer(when: int) -> Trainer:
        made = make_trainer(data, short_recipe(seconds=8.0, steps=0, every=2.0))
        return before_step(made, lambda number: (at(when, crash)(number), clock.advance(1.0)))

    with pytest.raises(RuntimeError):
        train(trainer(3), tmp_path, no_report, resume=False, limit=5.0)
    assert newest(tmp_path).meta["limit"] == 5.0
    made, limits = trainer(-1), list[float]()
    original = made.step

    def recorded(step: int, progress: TrainingProgress) -> Tensor:
        limits.append(progress.max_seconds)
        return original(step, progress)

    made.step = recorded
    result = train(made, tmp_path, no_report, resume=True, limit=6.0)
    assert (result.steps, result.time_limit) == (5, 5.0) and set(limits) == {5.0}


@pytest.mark.parametrize(("every", "saves"), [(0.0, [1, 2, 3, 4, 5, 6]), (2.0, [2, 4, 6]), (4.0, [4, 6]), (99.0, [6])])
def test_no_step_is_saved_twice(
    tmp_path: Path, data: Path, clock: FakeTime, monkeypatch: pytest.MonkeyPatch, every: float, saves: list[int]
) -> None:
    """Also if a limit is reached when a checkpoint is due."""
    saved: list[int] = []
    monkeypatch.setattr(checkpoint, "save", lambda folder, step, *rest: saved.append(step))
    trainer = before_step(make_trainer(data, short_recipe(steps=6, every=every)), lambda number: clock.advance(1.0))
    train(trainer, tmp_path, no_report, resume=False)
    assert saved == saves


def test_every_process_goes_by_the_first_ones_clock(
    tmp_path: Path, data: Path, clock: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If learning rates followed the clock of each process, the weights of processes would diverge."""
    theirs = chain([0.0, 1.0, 2.5], repeat(6.0))
    monkeypatch.setattr(loop, "broadcast_list", lambda values, distributed: [next(theirs), values[1]])
    trainer = make_trainer(data, short_recipe(seconds=5.0, steps=0), distributed=DistributedContext(rank=1))
    seen = record_clock(trainer)
    assert train(trainer, tmp_path, no_report, resume=False).steps == 3
    assert seen == [0.0, 1.0, 2.5]
