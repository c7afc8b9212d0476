"""The training loop: steps until a limit, with a clock, checkpoints, and a clean stop on signals or bad numbers."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
from torch import Tensor

from bitgolf.clock import Now
from bitgolf.errors import BitgolfError
from bitgolf.train import checkpoint
from bitgolf.train.trainer import Trainer
from bitgolf.world import agree, broadcast, mean

Report = Callable[..., None]  # report(kind, **fields): the run's journal


class Interrupted(BitgolfError):
    """A signal stopped training; its state is saved."""

    exit_code = 130


class Diverged(BitgolfError):
    """A loss, a weight or a momentum is no longer a finite number; what was saved before is kept."""

    def __init__(self, cause: str) -> None:
        mend = (
            "lower the learning rates (--set train.optim.0.use.lr=…) or set train.clip, and start again with "
            "--from train; the last good checkpoint is kept, and --resume goes on from it"
        )
        super().__init__(cause, place="train", mend=mend)


class Result(NamedTuple):
    """What was trained by the time of a checkpoint, the final one included."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0  # of the training clock
    loss: float = math.nan  # of the last step, nats per token


class Scalar:
    """A number () of a device on its way to the host: `read` waits until it was computed, and for nothing after it."""

    def __init__(self, value: Tensor) -> None:
        self.host, self.copied = value, None
        if value.is_cuda:
            self.host = torch.empty_like(value, device="cpu", pin_memory=True)
            self.host.copy_(value, non_blocking=True)
            self.copied = torch.cuda.Event()
            self.copied.record()

    def read(self) -> float:
        if self.copied:
            self.copied.synchronize()
        return float(self.host)


class Losses:
    """Losses of the steps, reported `every` so many. On a GPU each is read when the next step has been launched, so that
    the GPU never waits.

    Reading it is the one synchronization of a step. It also keeps the host at most one step ahead of the GPU, which the
    training clock relies on.
    """

    def __init__(self, trainer: Trainer, report: Report, clock: Callable[[], float], *, every: int) -> None:
        self.world, self.report, self.clock, self.every = trainer.world, report, clock, every
        self.late = int(trainer.device.device.type == "cuda")
        self.running: list[tuple[int, int, Scalar]] = []
        self.known: list[tuple[int, int, float]] = []
        self.last = math.nan

    def add(self, step: int, tokens: int, loss: Tensor) -> None:
        """The loss of a step, the step-th; so many tokens were trained on by its end."""
        self.running.append((step, tokens, Scalar(loss)))
        self._read(self.late)
        if len(self.known) >= self.every:
            self._report()

    def flush(self) -> None:
        """Wait for all losses and report them."""
        self._read(0)
        self._report()

    def _read(self, keep: int) -> None:
        while len(self.running) > keep:
            step, tokens, loss = self.running.pop(0)
            self.known.append((step, tokens, loss.read()))

    def _report(self) -> None:
        """Report the mean over all processes of each known loss. Raises at the first that is not finite."""
        if not self.known:
            return
        read = mean(torch.tensor([loss for *_, loss in self.known]), self.world).tolist()
        elapsed = round(self.clock(), 3)
        for (step, tokens, _), loss in zip(self.known, read, strict=True):
            if not math.isfinite(loss):
                raise Diverged(f"the loss is {loss} at step {step}")
            self.report("step", step=step, loss=loss, tokens=tokens, elapsed=elapsed)
        self.last = read[-1]
        self.known.clear()


def train(trainer: Trainer, folder: Path, report: Report, *, resume: bool) -> Result:
    """Train to the first limit and leave a final checkpoint in `folder`. `report` hears every logged step.

    Raises `Interrupted` on SIGINT and SIGTERM, its state saved, and `Diverged`, which saves nothing.
    """
    settings, world = trainer.settings, trainer.world
    saved = _restore(trainer, folder, report) if resume else Result()
    step, tokens, started = saved.steps, saved.tokens, time.perf_counter() - saved.seconds

    def clock() -> float:
        return time.perf_counter() - started

    losses = Losses(trainer, report, clock, every=1 if trainer.device.device.type == "cpu" else 50)
    with _signals() as caught:
        while True:
            # The first process's clock and signals decide for all: learning rates follow the clock, and must be one.
            elapsed, stop = broadcast([clock(), bool(caught)], world)
            now = Now(step, settings.steps, elapsed, settings.seconds)
            end = now.progress >= 1.0
            due = now.elapsed - saved.seconds >= settings.checkpoint_seconds
            if step > saved.steps and (due or stop or end):
                losses.flush()
                saved = Result(step, tokens, agree(clock(), world), losses.last)
                _save(trainer, folder, saved)
                continue  # writing took its time, and a signal may have come
            if stop:
                name = caught[0] if caught else "a signal"
                raise Interrupted(f"stopped by {name} after step {step}", mend="go on with --resume")
            if end:
                return saved
            loss = trainer.step(step, now)
            if trainer.phases.begun:
                report("phase", step=step, **trainer.phases.begun._asdict())
            step, tokens = step + 1, tokens + settings.shape(now.progress).tokens
            losses.add(step, tokens, loss)


def _save(trainer: Trainer, folder: Path, reached: Result) -> None:
    """Write a checkpoint, in the first process. A finite loss says nothing of the update after it, so all is checked."""
    state = trainer.state()  # in every process, as the optimizer's may be spread over them
    if bad := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise Diverged(f"{bad[0]} is not finite after step {reached.steps}")
    if trainer.world.rank == 0:
        meta = {"tokens": reached.tokens, "elapsed": reached.seconds, "loss": reached.loss}
        checkpoint.save(folder, reached.steps, state, {**meta, "paths": list(trainer.params)})


def _restore(trainer: Trainer, folder: Path, report: Report) -> Result:
    found = checkpoint.load_latest(folder)
    if found is None:
        return Result()
    trainer.load(found.tensors)
    for warning in found.warnings:
        report("warning", message=warning)
    tokens, elapsed, loss = int(found.meta["tokens"]), float(found.meta["elapsed"]), float(found.meta["loss"])
    report("resume", step=found.step, elapsed=elapsed)
    return Result(found.step, tokens, elapsed, loss)


@contextmanager
def _signals() -> Iterator[list[str]]:
    """SIGINT and SIGTERM are noted, and answered between two steps; outside a main thread nothing is changed."""
    caught: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(signal.Signals(number).name)

    try:
        old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        yield caught
        return
    try:
        yield caught
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)
