"""The loop: resuming, signals, numbers that are none, the clock, and what is left at the end."""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bitgolf.clock import Now
from bitgolf.recipe import Recipe
from bitgolf.spec import Spec
from bitgolf.train import checkpoint, loop
from bitgolf.train.loop import Diverged, Interrupted, Result, train
from bitgolf.train.trainer import Trainer
from toy import toy_recipe
from toy_training import State, make_trainer, same

STEPS = 8
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def silent(kind: str, **fields: Any) -> None:
    pass


def recipe(*, seconds: float = 0.0, steps: int = STEPS, every: float = 1e9) -> Spec[Recipe]:
    """A toy recipe that saves after so many seconds."""
    return toy_recipe(steps=steps).set("train.seconds", seconds).set("train.checkpoint_seconds", every)


def before_step(trainer: Trainer, act: Callable[[int], object]) -> Trainer:
    """The trainer, with something that happens before each of its steps (0, 1, ...)."""
    original = trainer.step

    def acting(step: int, now: Now) -> Tensor:
        act(step)
        return original(step, now)

    trainer.step = acting
    return trainer


def record_clock(trainer: Trainer) -> list[float]:
    """What the clock says at each step, as the schedules see it."""
    seen: list[float] = []
    original = trainer.step

    def recorded(step: int, now: Now) -> Tensor:
        seen.append(now.elapsed)
        return original(step, now)

    trainer.step = recorded
    return seen


def at(when: int, act: Callable[[], object]) -> Callable[[int], object]:
    return lambda number: act() if number == when else None


def crash() -> None:
    raise RuntimeError("the machine is on fire")


def newest(folder: Path) -> checkpoint.Checkpoint:
    found = checkpoint.load_latest(folder)
    assert found and not found.warnings
    return found


class FakeTime:
    """A clock that goes on only when told."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def perf_counter(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(loop, "time", fake)
    return fake


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], State, Result]:
    """Losses, final state and result of a run that nothing interrupts."""
    losses: list[float] = []
    torch.set_num_threads(1)
    trainer = make_trainer(data, recipe())
    result = train(trainer, tmp_path_factory.mktemp("whole"), logger(losses), resume=False)
    return losses, trainer.snapshot(), result


def logger(losses: list[float]) -> loop.Report:
    return lambda kind, **fields: losses.append(fields["loss"]) if kind == "step" else None


# ---- resuming --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", range(STEPS))
def test_a_crash_at_any_step_changes_nothing(
    tmp_path: Path, data: Path, clock: FakeTime, whole: tuple[list[float], State, Result], when: int
) -> None:
    """Checkpoints are at each second step, so half of the crashes lose a step, which is then done again."""
    clocked = lambda number: (at(when, crash)(number), clock.pass_by(1.0))  # noqa: E731
    with pytest.raises(RuntimeError, match="on fire"):
        train(before_step(make_trainer(data, recipe(every=2.0)), clocked), tmp_path, silent, resume=False)
    done = when // 2 * 2
    assert (newest(tmp_path).step if done else 0) == done
    losses: list[float] = []
    trainer = make_trainer(data, recipe(every=2.0), seed=0)
    result = train(trainer, tmp_path, logger(losses), resume=True)
    assert losses == whole[0][done:] and same(trainer.state(), whole[1])
    assert result.steps == newest(tmp_path).step == STEPS and result.loss == whole[2].loss


@pytest.mark.parametrize("when", [0, 3, STEPS - 1])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_leaves_a_checkpoint_and_changes_nothing(
    tmp_path: Path, data: Path, whole: tuple[list[float], State, Result], number: signal.Signals, when: int
) -> None:
    handlers = [signal.getsignal(s) for s in SIGNALS]
    losses: list[float] = []
    trainer = before_step(make_trainer(data, recipe()), at(when, lambda: signal.raise_signal(number)))
    with pytest.raises(Interrupted, match=f"{number.name} after step {when + 1}\n.*--resume") as caught:
        train(trainer, tmp_path, logger(losses), resume=False)
    assert caught.value.exit_code == 130 and [signal.getsignal(s) for s in SIGNALS] == handlers
    assert newest(tmp_path).step == len(losses) == when + 1
    trainer = make_trainer(data, recipe())
    train(trainer, tmp_path, logger(losses), resume=True)
    assert losses == whole[0] and same(trainer.state(), whole[1])


@pytest.mark.parametrize("when", [1, 5, STEPS])
def test_a_signal_during_a_save_is_answered_after_it(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[list[float], State, Result], when: int
) -> None:
    """In the final save too: the stages that follow would not hear it."""
    save = checkpoint.save

    def interrupted(folder: Path, step: int, *values: Any) -> Path:
        if step == when:
            signal.raise_signal(signal.SIGTERM)
        return save(folder, step, *values)

    monkeypatch.setattr(checkpoint, "save", interrupted)
    with pytest.raises(Interrupted):
        train(make_trainer(data, recipe(every=0.0)), tmp_path, silent, resume=False)
    monkeypatch.undo()
    assert newest(tmp_path).step in (when, when + 1)
    trainer = make_trainer(data, recipe())
    train(trainer, tmp_path, silent, resume=True)
    assert same(trainer.state(), whole[1])


def test_a_signal_before_the_first_step_saves_nothing(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def agree(value: Any, world: object) -> Any:
        return True if isinstance(value, bool) else value

    monkeypatch.setattr(loop, "agree", agree)
    with pytest.raises(Interrupted, match="after step 0"):
        train(before_step(make_trainer(data), lambda number: crash()), tmp_path, silent, resume=False)
    assert not list(tmp_path.iterdir())


def test_outside_the_main_thread_signals_are_left_alone(tmp_path: Path, data: Path) -> None:
    results: list[Result] = []
    handlers = [signal.getsignal(s) for s in SIGNALS]

    def work() -> None:
        check = lambda number: handlers == [signal.getsignal(s) for s in SIGNALS] or crash()  # noqa: E731
        results.append(train(before_step(make_trainer(data), check), tmp_path, silent, resume=False))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [r.steps for r in results] == [STEPS]


def test_a_complete_run_does_no_step(tmp_path: Path, data: Path) -> None:
    first = train(make_trainer(data), tmp_path, silent, resume=False)
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.iterdir()}
    trainer = before_step(make_trainer(data, seed=5), lambda number: crash())
    again = train(trainer, tmp_path, silent, resume=True)
    assert again == first and json.loads(json.dumps(again)) == list(first)
    assert before == {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.iterdir()}
    assert same(trainer.state(), newest(tmp_path).tensors)


def test_without_resume_it_starts_again(tmp_path: Path, data: Path) -> None:
    train(make_trainer(data, recipe(steps=3)), tmp_path, silent, resume=False)
    losses: list[float] = []
    train(make_trainer(data, recipe(steps=2)), tmp_path, logger(losses), resume=False)
    assert len(losses) == newest(tmp_path).step == 2


def test_only_the_first_process_writes(tmp_path: Path, data: Path) -> None:
    train(make_trainer(data, recipe(every=0.0), rank=1), tmp_path, silent, resume=False)
    assert not list(tmp_path.iterdir())


def test_the_log_has_each_step_and_what_was_damaged(tmp_path: Path, data: Path) -> None:
    events: list[tuple[str, dict[str, Any]]] = []

    def report(kind: str, **fields: Any) -> None:
        events.append((kind, fields))

    train(make_trainer(data, recipe(every=0.0)), tmp_path, report, resume=False)
    assert [(k, f["step"], f["tokens"]) for k, f in events] == [("step", s + 1, (s + 1) * 4 * 32) for s in range(STEPS)]
    max(tmp_path.iterdir()).write_bytes(b"torn")
    events.clear()
    train(make_trainer(data, recipe()), tmp_path, report, resume=True)
    assert [kind for kind, _ in events] == ["warning", "resume", "step"] and events[1][1]["step"] == STEPS - 1
    assert "step-00000008" in events[0][1]["message"]


# ---- numbers that are none -------------------------------------------------------------------------------------


def spoil(trainer: Trainer, value: float) -> None:
    with torch.no_grad():
        trainer.params["model.blocks.0.mlp.up.weight"][0, 0] = value


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, data: Path, value: float) -> None:
    trainer = make_trainer(data, recipe(every=0.0))
    before_step(trainer, at(4, lambda: spoil(trainer, value)))
    losses: list[float] = []
    with pytest.raises(Diverged, match=r"the loss is nan at step 5\n.*learning rates.*train\.clip.*--resume"):
        train(trainer, tmp_path, logger(losses), resume=False)
    found = newest(tmp_path)
    assert found.step == len(losses) == 4 and all(t.isfinite().all() for t in found.tensors.values())


def test_losses_read_late_name_the_right_step(tmp_path: Path, data: Path) -> None:
    """As on a GPU, where the loop does not wait for each loss."""
    trainer = make_trainer(data)
    steps: list[int] = []
    losses = loop.Losses(trainer, lambda kind, **fields: steps.append(fields["step"]), lambda: 0.0, every=4)
    for step, value in enumerate([3.0, 2.0, 1.0, 0.5, 2.0, math.nan, 1.0], start=1):
        losses.add(step, torch.tensor(value))
        assert steps == ([1, 2, 3, 4] if step >= 4 else [])
    with pytest.raises(Diverged, match="nan at step 6"):
        losses.flush()
    assert steps == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["weights", "optimizer", "average"])
def test_a_state_that_is_not_finite_is_not_saved(tmp_path: Path, data: Path, name: str) -> None:
    """The loss of a step says nothing of the update after it."""
    trainer = make_trainer(data, recipe(every=0.0))
    update = trainer.update

    def spoiled(now: Now) -> None:
        update(now)
        if now.step == 4:
            next(t for k, t in trainer.state().items() if k.startswith(name) and t.dim() == 2)[0, 0] = math.inf

    trainer.update = spoiled
    with pytest.raises(Diverged, match=rf"{name}/.* is not finite after step 5\n"):
        train(trainer, tmp_path, silent, resume=False)
    assert newest(tmp_path).step == 4


def test_a_learning_rate_that_is_far_too_high(tmp_path: Path, data: Path) -> None:
    wild = recipe(every=0.0).set("train.optim.1.use.lr", 1e30)
    with pytest.raises(Diverged):
        train(make_trainer(data, wild), tmp_path, silent, resume=False)
    found = checkpoint.load_latest(tmp_path)
    assert found is None or all(t.isfinite().all() for t in found.tensors.values())


# ---- the clock -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "steps", "done"), [(5.5, 0, 6), (5.0, 0, 5), (0.5, 0, 1), (3.5, 3, 3), (3.5, 5, 4), (100.0, 8, 8)]
)
def test_training_ends_at_the_first_step_past_a_limit(
    tmp_path: Path, data: Path, clock: FakeTime, seconds: float, steps: int, done: int
) -> None:
    trainer = before_step(make_trainer(data, recipe(seconds=seconds, steps=steps)), lambda number: clock.pass_by(1.0))
    result = train(trainer, tmp_path, silent, resume=False)
    found = newest(tmp_path)
    assert result[:3] == (done, done * 4 * 32, float(done)) and found.step == done
    assert found.meta["elapsed"] == result.seconds and found.meta["paths"] == list(trainer.params)
    assert result.loss == found.meta["loss"] and math.isfinite(result.loss)


def test_the_clock_goes_on_where_it_stopped(
    tmp_path: Path, data: Path, clock: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saving is on the clock; what happened between two calls is not, nor a step whose work was lost."""
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *values: (clock.pass_by(0.25), save(*values)))

    def trainer(when: int) -> Trainer:
        made = make_trainer(data, recipe(seconds=8.0, steps=0, every=2.0))
        return before_step(made, lambda number: (at(when, crash)(number), clock.pass_by(1.0)))

    with pytest.raises(RuntimeError):
        train(trainer(5), tmp_path, silent, resume=False)
    assert newest(tmp_path).meta["elapsed"] == 4.25  # steps 1 and 2, the first save, steps 3 and 4
    clock.pass_by(500.0)
    made = trainer(-1)
    seen = record_clock(made)
    assert train(made, tmp_path, silent, resume=True)[:3] == (8, 8 * 4 * 32, 8.5)
    assert seen == [4.25, 5.25, 6.5, 7.5]


@pytest.mark.parametrize(("every", "saves"), [(0.0, [1, 2, 3, 4, 5, 6]), (2.0, [2, 4, 6]), (4.0, [4, 6]), (99.0, [6])])
def test_no_step_is_saved_twice(
    tmp_path: Path, data: Path, clock: FakeTime, monkeypatch: pytest.MonkeyPatch, every: float, saves: list[int]
) -> None:
    """Also where a limit is reached just when a checkpoint is due."""
    saved: list[int] = []
    monkeypatch.setattr(loop, "checkpoint", SimpleNamespace(save=lambda folder, step, *rest: saved.append(step)))
    trainer = before_step(make_trainer(data, recipe(steps=6, every=every)), lambda number: clock.pass_by(1.0))
    train(trainer, tmp_path, silent, resume=False)
    assert saved == saves


def test_every_process_goes_by_the_first_ones_clock(
    tmp_path: Path, data: Path, clock: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learning rate that follows each process's own clock would pull their weights apart."""
    theirs = chain([0.0, 1.0, 2.5], repeat(6.0))
    monkeypatch.setattr(loop, "agree", lambda value, world: next(theirs) if isinstance(value, float) else value)
    trainer = make_trainer(data, recipe(seconds=5.0, steps=0), rank=1)
    seen = record_clock(trainer)
    assert train(trainer, tmp_path, silent, resume=False).steps == 3
    assert seen == [0.0, 1.0, 2.5]
