"""The loop: crashes, signals, and resumption."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from bitgolf.errors import Interrupted
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.training import checkpoint, loop
from bitgolf.training.checkpoint_manager import TrainResult
from bitgolf.training.loop import train
from helpers.toy_training import (
    STEPS,
    FakeTime,
    State,
    at,
    before_step,
    crash,
    logger,
    make_trainer,
    newest,
    no_report,
    same,
    short_recipe,
)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], State, TrainResult]:
    """Losses, final state and result of an uninterrupted run."""
    losses: list[float] = []
    trainer = make_trainer(data, short_recipe())
    result = train(trainer, tmp_path_factory.mktemp("whole"), logger(losses), resume=False)
    return losses, trainer.clone_state(), result


@pytest.mark.parametrize("when", range(STEPS))
def test_a_crash_at_any_step_changes_nothing(
    tmp_path: Path, data: Path, clock: FakeTime, whole: tuple[list[float], State, TrainResult], when: int
) -> None:
    """Checkpoints are saved every second step, so half of the crashes lose a step, which is repeated."""
    clocked = lambda number: (at(when, crash)(number), clock.advance(1.0))  # noqa: E731
    with pytest.raises(RuntimeError, match="on fire"):
        train(before_step(make_trainer(data, short_recipe(every=2.0)), clocked), tmp_path, no_report, resume=False)
    done = when // 2 * 2
    assert (newest(tmp_path).step if done else 0) == done
    losses: list[float] = []
    trainer = make_trainer(data, short_recipe(every=2.0), seed=0)
    result = train(trainer, tmp_path, logger(losses), resume=True)
    assert losses == whole[0][done:] and same(trainer.state_dict(), whole[1])
    assert result.steps == newest(tmp_path).step == STEPS and result.loss == whole[2].loss


@pytest.mark.parametrize("when", [0, 3, STEPS - 1])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_leaves_a_checkpoint_and_changes_nothing(
    tmp_path: Path, data: Path, whole: tuple[list[float], State, TrainResult], number: signal.Signals, when: int
) -> None:
    handlers = [signal.getsignal(s) for s in SIGNALS]
    losses: list[float] = []
    trainer = before_step(make_trainer(data, short_recipe()), at(when, lambda: signal.raise_signal(number)))
    with pytest.raises(Interrupted, match=f"{number.name} after step {when + 1}\n.*--resume") as caught:
        train(trainer, tmp_path, logger(losses), resume=False)
    assert caught.value.exit_code == 130 and [signal.getsignal(s) for s in SIGNALS] == handlers
    assert newest(tmp_path).step == len(losses) == when + 1
    trainer = make_trainer(data, short_recipe())
    train(trainer, tmp_path, logger(losses), resume=True)
    assert losses == whole[0] and same(trainer.state_dict(), whole[1])


@pytest.mark.parametrize("when", [1, 5, STEPS])
def test_a_signal_during_a_save_is_answered_after_it(
    tmp_path: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: tuple[list[float], State, TrainResult],
    when: int,
) -> None:
    """Also in the final save, since later stages would not receive the signal."""
    save = checkpoint.save

    def interrupted(folder: Path, step: int, *values: Any) -> Path:
        if step == when:
            signal.raise_signal(signal.SIGTERM)
        return save(folder, step, *values)

    monkeypatch.setattr(checkpoint, "save", interrupted)
    with pytest.raises(Interrupted):
        train(make_trainer(data, short_recipe(every=0.0)), tmp_path, no_report, resume=False)
    monkeypatch.undo()
    assert newest(tmp_path).step in (when, when + 1)
    trainer = make_trainer(data, short_recipe())
    train(trainer, tmp_path, no_report, resume=True)
    assert same(trainer.state_dict(), whole[1])


def test_a_signal_before_the_first_step_saves_nothing(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "broadcast_list", lambda values, distributed: [values[0], True])
    with pytest.raises(Interrupted, match="after step 0"):
        train(before_step(make_trainer(data), lambda number: crash()), tmp_path, no_report, resume=False)
    assert not list(tmp_path.iterdir())


def test_outside_the_main_thread_signals_are_left_alone(tmp_path: Path, data: Path) -> None:
    results: list[TrainResult] = []
    handlers = [signal.getsignal(s) for s in SIGNALS]

    def work() -> None:
        check = lambda number: handlers == [signal.getsignal(s) for s in SIGNALS] or crash()  # noqa: E731
        results.append(train(before_step(make_trainer(data), check), tmp_path, no_report, resume=False))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [r.steps for r in results] == [STEPS]


def test_a_complete_run_does_no_step(tmp_path: Path, data: Path) -> None:
    first = train(make_trainer(data), tmp_path, no_report, resume=False)
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.iterdir()}
    trainer = before_step(make_trainer(data, seed=5), lambda number: crash())
    again = train(trainer, tmp_path, no_report, resume=True)
    assert again == first and json.loads(json.dumps(again)) == list(first)
    assert before == {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.iterdir()}
    assert same(trainer.state_dict(), newest(tmp_path).tensors)


def test_without_resume_it_starts_again(tmp_path: Path, data: Path) -> None:
    train(make_trainer(data, short_recipe(steps=3)), tmp_path, no_report, resume=False)
    losses: list[float] = []
    train(make_trainer(data, short_recipe(steps=2)), tmp_path, logger(losses), resume=False)
    assert len(losses) == newest(tmp_path).step == 2


def test_only_the_first_process_writes(tmp_path: Path, data: Path) -> None:
    train(
        make_trainer(data, short_recipe(every=0.0), distributed=DistributedContext(rank=1)),
        tmp_path,
        no_report,
        resume=False,
    )
    assert not list(tmp_path.iterdir())


def test_the_log_has_each_step_and_what_was_damaged(tmp_path: Path, data: Path) -> None:
    events: list[tuple[str, dict[str, Any]]] = []

    def report(kind: str, **fields: Any) -> None:
        events.append((kind, fields))

    train(make_trainer(data, short_recipe(every=0.0)), tmp_path, report, resume=False)
    steps = [(f["step"], f["tokens"]) for kind, f in events if kind == "step"]
    assert steps == [(s + 1, (s + 1) * 4 * 32) for s in range(STEPS)]
    assert [f["step"] for kind, f in events if kind == "checkpoint"] == [s + 1 for s in range(STEPS)]
    assert {kind for kind, _ in events} == {"step", "checkpoint"}
    max(tmp_path.iterdir()).write_bytes(b"torn")
    events.clear()
    train(make_trainer(data, short_recipe()), tmp_path, report, resume=True)
    assert [kind for kind, _ in events] == ["warning", "resume", "step", "checkpoint"] and events[1][1][
        "step"
    ] == STEPS - 1
    assert "step-00000008" in events[0][1]["message"]


def test_a_graph_that_is_compiled_within_a_step_is_logged(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, found = [0], list[tuple[int, int]]()
    monkeypatch.setattr("bitgolf.training.loop.graph_count", lambda: compiled[0])

    def compile_graphs(number: int) -> None:
        compiled[0] += 2 * (number == 3)

    def report(kind: str, **fields: Any) -> None:
        if kind == "recompile":
            found.append((fields["step"], fields["graphs"]))

    train(before_step(make_trainer(data), compile_graphs), tmp_path, report, resume=False)
    assert found == [(3, 2)]
