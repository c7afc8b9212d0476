"""Background checkpoints: steps do not wait for them, snapshots are consistent, and errors are raised."""

from __future__ import annotations

import errno
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bitgolf.errors import BitgolfError
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training import checkpoint, loop
from bitgolf.training.checkpoint_writer import CheckpointWriter, HostSnapshot, first_nonfinite
from bitgolf.training.loop import train
from bitgolf.training.loss_reporter import Diverged
from bitgolf.training.trainer import Trainer
from helpers.toy_training import (
    STEPS,
    FakeTime,
    State,
    before_step,
    make_trainer,
    newest,
    no_report,
    same,
    short_recipe,
)

Save = Callable[..., Path]


def saving(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], object]) -> list[int]:
    """The steps whose checkpoints are complete; `act` is called in the thread before each is written."""
    save, saved = checkpoint.save, list[int]()

    def acting(folder: Path, step: int, *rest: Any) -> Path:
        act(step)
        path = save(folder, step, *rest)
        saved.append(step)
        return path

    monkeypatch.setattr(checkpoint, "save", acting)
    return saved


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """A fake clock for the loop; threads take real time."""
    fake = FakeTime()
    monkeypatch.setattr(loop, "time", fake)
    return fake


def stepping(data: Path, seconds: FakeTime, act: Callable[[int], object]) -> Trainer:
    """A trainer whose steps take 1 s each, with a checkpoint every 2 s."""
    made = make_trainer(data, short_recipe(every=2.0))
    return before_step(made, lambda number: (act(number), seconds.advance(1.0)))


# ---- the loop goes on ------------------------------------------------------------------------------------------------


def test_steps_go_on_while_a_checkpoint_is_written(
    tmp_path: Path, data: Path, seconds: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing the first checkpoint ends when step 5 begins. Those due before are postponed, with a single warning."""
    written, said = threading.Event(), list[str]()
    saved = saving(monkeypatch, lambda step: written.wait(30) or pytest.fail("no step was done meanwhile"))

    def act(number: int) -> None:
        assert number > 4 or saved == []
        if number == 5:
            written.set()

    def report(kind: str, **fields: Any) -> None:
        said.extend([fields["message"]] if kind == "warning" else [])

    result = train(stepping(data, seconds, act), tmp_path, report, resume=False)
    assert result.steps == STEPS and result.training_seconds == STEPS
    assert (saved[0], saved[-1]) == (2, STEPS) and 4 not in saved
    (message,) = said
    assert "takes more than 2 s, so the next is postponed" in message


def test_what_is_written_is_the_state_when_it_was_saved(
    tmp_path: Path, data: Path, seconds: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two more steps are trained before the snapshot is written."""
    later, then = threading.Event(), dict[int, State]()
    saving(monkeypatch, lambda step: later.wait(30))

    def act(number: int) -> None:
        then[number] = trainer.clone_state()
        if number == 4:
            later.set()
            raise RuntimeError("enough")

    trainer = stepping(data, seconds, act)
    with pytest.raises(RuntimeError, match="enough"):
        train(trainer, tmp_path, no_report, resume=False)
    found = newest(tmp_path)
    assert found.step == 2 and same(found.tensors, then[2]) and not same(then[2], then[4])


def test_the_end_waits_for_the_last_file(
    tmp_path: Path, data: Path, seconds: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of the final write is not on the training clock."""
    saved = saving(monkeypatch, lambda step: seconds.advance(100.0) if step == STEPS else None)
    result = train(stepping(data, seconds, lambda number: None), tmp_path, no_report, resume=False)
    assert saved[-1] == newest(tmp_path).step == STEPS
    assert result.training_seconds == newest(tmp_path).meta["elapsed"] == STEPS


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def full_disk(step: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_one_clear_error(
    tmp_path: Path, data: Path, seconds: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is raised when the next checkpoint is saved, or at the end of training."""
    saving(monkeypatch, lambda step: full_disk(step) if step >= 4 else None)
    with pytest.raises(BitgolfError, match=r"could not be written \(No space left on device\)\n.*--resume") as caught:
        train(stepping(data, seconds, lambda number: None), tmp_path, no_report, resume=False)
    assert caught.value.where == str(tmp_path) and newest(tmp_path).step == 2
    with pytest.raises(BitgolfError, match="No space left"):
        train(make_trainer(data, short_recipe()), tmp_path, no_report, resume=False)


def test_another_error_is_not_hidden_by_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(Diverged) as caught, CheckpointWriter(tmp_path / "x", {"w": torch.ones(1)}) as writer:
        (tmp_path / "x").write_text("a file where the folder would be")
        writer.submit(1, {"w": torch.ones(1)}, {})
        raise Diverged("the loss is nan at step 2")
    assert "could not be written" in caught.value.__notes__[0]


def test_nothing_is_written_of_a_state_that_is_not_finite(
    tmp_path: Path, data: Path, seconds: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    saving(monkeypatch, started.append)

    trainer = stepping(data, seconds, lambda number: None)
    original = trainer.optimizer_step

    def update(progress: TrainingProgress) -> None:
        original(progress)
        if progress.step == 3:
            trainer.average_state["mean"][0].view(-1)[0] = math.inf  # seen by no loss

    trainer.optimizer_step = update
    with pytest.raises(Diverged, match="is not finite after step 4"):
        train(trainer, tmp_path, no_report, resume=False)
    assert started == [2]


# ---- the check and the copy ------------------------------------------------------------------------------------------

numbers = st.floats(width=32) | st.sampled_from([math.nan, math.inf, -math.inf, 3e38, 0.0])
tensors = st.tuples(
    st.lists(numbers, max_size=5), st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.int64])
)


@given(st.lists(tensors, max_size=6))
def test_the_check_for_finite_numbers_is_that_of_each_tensor(given: list[tuple[list[float], torch.dtype]]) -> None:
    state = {str(i): torch.tensor(values, dtype=torch.float64).to(dtype) for i, (values, dtype) in enumerate(given)}
    plain = next((name for name, t in state.items() if not t.isfinite().all()), None)
    assert first_nonfinite(state) == plain


def test_the_check_reads_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Tensor] = []
    read = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: (reads.append(self), read(self))[1])
    monkeypatch.setattr(Tensor, "__bool__", lambda self: pytest.fail("a read for one tensor"))
    state = {str(i): torch.full((3,), float(i)) for i in range(50)} | {"n": torch.tensor(3), "h": torch.ones(2).half()}
    assert first_nonfinite(state) is None and len(reads) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_copy_from_a_gpu_is_of_the_moment() -> None:
    """The snapshot is not affected by later changes of the state, also when buffers are reused."""
    state = {"w": torch.randn(1 << 24, device="cuda"), "rng": torch.get_rng_state()}
    copy = HostSnapshot(state)
    for _ in range(2):
        want = state["w"].cpu()
        complete = copy.start(state)
        state["w"].mul_(2).add_(1)
        assert torch.equal(complete()["w"], want) and torch.equal(complete()["rng"], state["rng"])
    assert copy.buffers["w"].is_pinned()
