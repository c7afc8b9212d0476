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
from bitgolf.world import agree, mean

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


class Losses:
    """Losses on the device until they are needed: reading one stops a GPU's pipeline."""

    def __init__(self, trainer: Trainer, report: Report, clock: Callable[[], float], *, every: int) -> None:
        self.world, self.report, self.clock, self.every = trainer.world, report, clock, every
        self.pending: list[tuple[int, int, Tensor]] = []
        self.last = math.nan

    def add(self, step: int, tokens: int, loss: Tensor) -> None:
        """The loss of a step, the step-th; so many tokens were trained on by its end."""
        self.pending.append((step, tokens, loss))
        if len(self.pending) >= self.every:
            self.flush()

    def flush(self) -> None:
        """Report the loss over all processes of each step since the last time. Raises at the first that is not finite."""
        if not self.pending:
            return
        read = mean(torch.stack([loss for *_, loss in self.pending]), self.world).tolist()
        elapsed = round(self.clock(), 3)
        for (step, tokens, _), loss in zip(self.pending, read, strict=True):
            if not math.isfinite(loss):
                raise Diverged(f"the loss is {loss} at step {step}")
            self.report("step", step=step, loss=loss, tokens=tokens, elapsed=elapsed)
        self.last = read[-1]
        self.pending.clear()


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
            now = Now(step, settings.steps, agree(clock(), world), settings.seconds)
            stop, end = agree(bool(caught), world), now.progress >= 1.0
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
