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

from bitgolf.errors import BitgolfError, Interrupted
from bitgolf.runtime.distributed import agree, broadcast, mean
from bitgolf.runtime.progress import Now
from bitgolf.train import checkpoint
from bitgolf.train.checkpoint_writer import CheckpointWriter, first_not_finite
from bitgolf.train.trainer import Trainer

Report = Callable[..., None]  # report(kind, **fields): the run's journal


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
    limit: float = 0.0  # on those seconds; 0 is none


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
            self.report("step", step=step, loss=loss, tokens=tokens, training_seconds=elapsed)
        self.last = read[-1]
        self.known.clear()


def train(trainer: Trainer, folder: Path, report: Report, *, resume: bool, limit: float | None = None) -> Result:
    """Train to the first limit and leave a final checkpoint in `folder`. `report` hears every logged step.

    limit: seconds of the training clock (0: none), by default `train.seconds`. A run that is resumed keeps the limit that
    it began with.
    Raises `Interrupted` on SIGINT and SIGTERM, its state saved, and `Diverged`, which saves nothing.
    """
    settings, world = trainer.settings, trainer.world
    saved = Result(limit=settings.seconds if limit is None else limit)
    saved = _restore(trainer, folder, report, saved) if resume else saved
    step, tokens, state = saved.steps, saved.tokens, trainer.state()
    with _signals() as caught, CheckpointWriter(folder, {} if world.rank else state) as writer:
        started = time.perf_counter() - saved.seconds

        def clock() -> float:
            return time.perf_counter() - started

        saves = Saves(trainer, writer, report)
        losses = Losses(trainer, report, clock, every=1 if trainer.device.device.type == "cpu" else 50)
        now = Now(step, settings.steps, saved.seconds, saved.limit)
        while True:
            if now.steps_left < 3:
                losses.flush()  # waits for the device: else a clock read while it works would let a step begin too late
            # The first process's clock and signals decide for all: learning rates follow the clock, and must be one.
            elapsed, stopped = broadcast([clock(), bool(caught)], world)
            now = Now(step, settings.steps, elapsed, saved.limit)
            stop, end = bool(stopped), now.progress >= 1.0
            if step > saved.steps and (stop or end or saves.due(now.elapsed - saved.seconds)):
                losses.flush()
                state = saves.state(step)
                saved = Result(step, tokens, agree(clock(), world), losses.last, saved.limit)
                saves.save(saved, state, wait=stop or end)
                continue  # saving took its time, and a signal may have come
            if stop:
                name = caught[0] if caught else "a signal"
                raise Interrupted(f"stopped by {name} after step {step}", mend="go on with --resume")
            if end:
                return saved
            loss = trainer.step(step, now)
            if begun := trainer.phases.begun:
                losses_of = {"loss_before": begun.before, "loss_after": begun.after}
                report("phase", step=step, phase_start=begun.moment, **losses_of)
            step, tokens = step + 1, tokens + settings.shape(now.progress).tokens
            losses.add(step, tokens, loss)


class Saves:
    """When state is saved, and how: checked and copied on the training clock, written by a thread meanwhile."""

    def __init__(self, trainer: Trainer, writer: CheckpointWriter, report: Report) -> None:
        self.trainer, self.writer, self.report = trainer, writer, report
        self.postponed = False

    def due(self, seconds: float) -> bool:
        """Whether to save now, so many seconds after the last time. An earlier file that is not whole yet postpones it,
        unless each step is to be saved (`checkpoint_seconds` 0), which then waits."""
        every = self.trainer.settings.checkpoint_seconds
        if seconds < every:
            return False
        postponed = every > 0 and agree(self.writer.busy, self.trainer.world)
        if postponed and not self.postponed:
            message = f"a checkpoint takes more than {every:g} s to write, so the next is postponed until it is whole"
            self.report("warning", message=f"{message} (see train.checkpoint_seconds)")
        self.postponed = postponed
        return not postponed

    def state(self, step: int) -> dict[str, Tensor]:
        """The trainer's state, in every process at once, as the optimizer's may be spread over them. A finite loss says
        nothing of the update after it, so all of it is checked: raises `Diverged`."""
        state = self.trainer.state()
        if bad := first_not_finite(state):
            raise Diverged(f"{bad} is not finite after step {step}")
        return state

    def save(self, reached: Result, state: dict[str, Tensor], *, wait: bool) -> None:
        """Have the first process write a checkpoint; `wait` until it is whole."""
        if self.trainer.world.rank:
            return
        meta = {"tokens": reached.tokens, "elapsed": reached.seconds, "loss": reached.loss, "limit": reached.limit}
        self.writer.submit(reached.steps, state, {**meta, "paths": list(self.trainer.params)})
        if wait:
            self.writer.wait()


def _restore(trainer: Trainer, folder: Path, report: Report, start: Result) -> Result:
    found = checkpoint.load_latest(folder)
    if found is None:
        return start
    trainer.load(found.tensors)
    for warning in found.warnings:
        report("warning", message=warning)
    tokens, elapsed, loss = int(found.meta["tokens"]), float(found.meta["elapsed"]), float(found.meta["loss"])
    result = Result(found.step, tokens, elapsed, loss, float(found.meta["limit"]))
    report("resume", step=found.step, training_seconds=elapsed, time_limit_seconds=result.limit)
    return result


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
