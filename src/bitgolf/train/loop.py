"""The training loop: steps until a limit, with a clock, checkpoints, and a clean stop on signals or bad numbers."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from bitgolf.errors import Interrupted
from bitgolf.runtime.distributed import agree, broadcast
from bitgolf.runtime.progress import Now
from bitgolf.train.checkpoint_manager import Result, Saves, restore
from bitgolf.train.checkpoint_writer import CheckpointWriter
from bitgolf.train.loss_reporter import Losses, Report
from bitgolf.train.trainer import Trainer


def train(trainer: Trainer, folder: Path, report: Report, *, resume: bool, limit: float | None = None) -> Result:
    """Train to the first limit and leave a final checkpoint in `folder`. `report` receives every logged event.

    limit: seconds of the training clock (0: none), by default `train.seconds`. A run that is resumed keeps the limit that
    it began with.
    Raises `Interrupted` on SIGINT and SIGTERM, its state saved, and `Diverged`, which saves nothing.
    """
    start = Result(limit=trainer.settings.seconds if limit is None else limit)
    saved = restore(trainer, folder, report, start) if resume else start
    state = trainer.state()  # on every rank: the optimizer's may be spread over them
    with _signals() as caught, CheckpointWriter(folder, {} if trainer.world.rank else state) as writer:
        return _TrainingLoop(trainer, writer, report, saved, caught).run()


class _TrainingLoop:
    """The state of a running loop: steps and tokens so far, and what was last saved."""

    def __init__(
        self, trainer: Trainer, writer: CheckpointWriter, report: Report, saved: Result, caught: list[str]
    ) -> None:
        self.trainer, self.report, self.saved, self.caught = trainer, report, saved, caught
        self.step, self.tokens = saved.steps, saved.tokens
        self.started = time.perf_counter() - saved.seconds
        self.saves = Saves(trainer, writer, report)
        every = 1 if trainer.device.device.type == "cpu" else 50
        self.losses = Losses(trainer, report, self.clock, every=every)

    def clock(self) -> float:
        """Seconds of the training clock on this process."""
        return time.perf_counter() - self.started

    def run(self) -> Result:
        """Step until a limit or a signal; the result is that of the final checkpoint."""
        now = Now(self.step, self.trainer.settings.steps, self.saved.seconds, self.saved.limit)
        while True:
            now, stopped = self.progress(now)
            ended = now.progress >= 1.0
            if self.unsaved(now, final=stopped or ended):
                self.save(wait=stopped or ended)
            elif stopped:
                name = self.caught[0] if self.caught else "a signal"
                raise Interrupted(f"stopped by {name} after step {self.step}", mend="go on with --resume")
            elif ended:
                return self.saved
            else:
                self.train_step(now)

    def progress(self, before: Now) -> tuple[Now, bool]:
        """The progress of the run, and whether a signal has come: by the clock and the signals of rank 0.

        Learning rates follow the clock, so all ranks must have the same one.
        """
        if before.steps_left < 3:
            self.losses.flush()  # waits for the device, or a step could begin after the limit
        elapsed, stopped = broadcast([self.clock(), bool(self.caught)], self.trainer.world)
        return Now(self.step, self.trainer.settings.steps, elapsed, self.saved.limit), bool(stopped)

    def unsaved(self, now: Now, *, final: bool) -> bool:
        """Whether to save now: after a step, where it is the last one or a checkpoint is due."""
        return self.step > self.saved.steps and (final or self.saves.due(now.elapsed - self.saved.seconds))

    def save(self, *, wait: bool) -> None:
        """Save a checkpoint. It takes time, and a signal may come meanwhile: the clock is read again afterwards."""
        self.losses.flush()
        state = self.saves.state(self.step)
        seconds = agree(self.clock(), self.trainer.world)
        self.saved = Result(self.step, self.tokens, seconds, self.losses.last, self.saved.limit)
        self.saves.save(self.saved, state, wait=wait)

    def train_step(self, now: Now) -> None:
        """One training step; reports a phase that began with it, and its loss."""
        loss = self.trainer.step(self.step, now)
        if begun := self.trainer.phases.begun:
            self.report("phase", step=self.step, **begun._asdict())
        self.step += 1
        self.tokens += self.trainer.settings.shape(now.progress).tokens
        self.losses.add(self.step, self.tokens, loss)


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
