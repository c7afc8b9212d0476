"""The training loop: steps until a limit, with a clock, checkpoints, and a clean stop on signals or bad numbers."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bitgolf.clock import Now
from bitgolf.errors import BitgolfError
from bitgolf.train import checkpoint
from bitgolf.train.dist import agree, mean
from bitgolf.train.trainer import Trainer

Report = Callable[..., None]  # report(kind, **fields): the run's journal


class Interrupted(BitgolfError):
    """A signal stopped training; its state is saved."""

    exit_code = 130


class Result(NamedTuple):
    steps: int
    tokens: int
    seconds: float  # of the training clock
    loss: float  # of the last step, nats per token


class Losses:
    """Losses on the device until they are needed: reading one stops a GPU's pipeline."""

    def __init__(self, trainer: Trainer, every: int) -> None:
        self.trainer, self.every, self.pending, self.last = trainer, every, list[tuple[int, Tensor]](), math.nan

    def add(self, step: int, loss: Tensor) -> None:
        self.pending.append((step, loss))

    def due(self) -> bool:
        return len(self.pending) >= self.every

    def flush(self) -> list[tuple[int, float]]:
        """(step, loss over all processes) since the last time. Raises on the first that is not finite."""
        if not self.pending:
            return []
        steps, values = [s for s, _ in self.pending], torch.stack([v for _, v in self.pending])
        self.pending.clear()
        read = mean(values, self.trainer.world).tolist()
        for step, loss in zip(steps, read, strict=True):
            if not math.isfinite(loss):
                raise BitgolfError(
                    f"the loss is {loss} at step {step}",
                    place="train",
                    mend="the last good checkpoint is kept; lower the learning rates (--set train.optim.0.use.lr=…) or set train.clip, and start again, or --resume",
                )
        self.last = read[-1]
        return list(zip(steps, read, strict=True))


def train(trainer: Trainer, folder: Path, report: Report, *, resume: bool) -> Result:
    """Train to the first limit and leave a final checkpoint in `folder`. `report` hears every logged step."""
    settings = trainer.settings
    step, spent = _restore(trainer, folder, report) if resume else (0, 0.0)
    losses = Losses(trainer, every=1 if trainer.device.device.type == "cpu" else 50)
    tokens_a_step = settings.rows * settings.length
    started = saved = time.perf_counter()

    def elapsed() -> float:
        return spent + time.perf_counter() - started

    def save() -> None:
        _log(losses.flush(), report, elapsed(), tokens_a_step)
        if trainer.world.rank == 0:
            checkpoint.save(folder, step, trainer.state(), {"elapsed": elapsed(), "paths": list(trainer.params)})

    with _signals() as caught:
        while not _done(trainer, step, elapsed()):
            losses.add(step + 1, trainer.step(step, Now(step, settings.steps, elapsed(), settings.seconds)))
            step += 1
            if losses.due():
                _log(losses.flush(), report, elapsed(), tokens_a_step)
            stop = agree(bool(caught), trainer.world)
            if stop or agree(time.perf_counter() - saved > settings.checkpoint_seconds, trainer.world):
                save()
                saved = time.perf_counter()
            if stop:
                raise Interrupted(
                    f"stopped by {caught[0] if caught else 'a signal'} after step {step}", mend="go on with --resume"
                )
        seconds = elapsed()
        save()
    return Result(step, step * tokens_a_step, seconds, losses.last)


def _done(trainer: Trainer, step: int, elapsed: float) -> bool:
    """Whether a limit is reached; the first process's clock decides for all."""
    limits = trainer.settings
    over = bool(limits.steps and step >= limits.steps) or bool(limits.seconds and elapsed >= limits.seconds)
    return agree(over, trainer.world)


def _restore(trainer: Trainer, folder: Path, report: Report) -> tuple[int, float]:
    found = checkpoint.load_latest(folder)
    if found is None:
        return 0, 0.0
    trainer.load(found.tensors)
    for warning in found.warnings:
        report("warning", message=warning)
    report("resume", step=found.step, elapsed=found.meta["elapsed"])
    return found.step, float(found.meta["elapsed"])


def _log(read: list[tuple[int, float]], report: Report, elapsed: float, tokens_a_step: int) -> None:
    for step, loss in read:
        report("step", step=step, loss=loss, tokens=step * tokens_a_step, elapsed=round(elapsed, 3))


@contextmanager
def _signals() -> Iterator[list[Any]]:
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
