"""The training loop: steps until a limit, with a clock, checkpoints, and a clean stop on signals or bad numbers."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitgolf.errors import Interrupted
from bitgolf.runtime.distributed import broadcast_list, broadcast_scalar
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.runtime.signals import signals_to
from bitgolf.train.checkpoint_manager import CheckpointManager, TrainResult, restore
from bitgolf.train.checkpoint_writer import CheckpointWriter
from bitgolf.train.loss_reporter import LogEvent, LossReporter
from bitgolf.train.trainer import Trainer


def train(trainer: Trainer, folder: Path, report: LogEvent, *, resume: bool, limit: float | None = None) -> TrainResult:
    """Train to the first limit and leave a final checkpoint in `folder`. `report` receives every logged event.

    limit: seconds of the training clock (0: none), by default `train.seconds`. A run that is resumed keeps the limit that
    it began with.
    Raises `Interrupted` on SIGINT and SIGTERM, its state saved, and `Diverged`, which saves nothing.
    """
    start = TrainResult(time_limit=trainer.settings.seconds if limit is None else limit)
    saved = restore(trainer, folder, report, start) if resume else start
    state = trainer.state_dict()  # on every rank: the optimizer's may be spread over them
    with _deferred_signals() as caught, CheckpointWriter(folder, {} if trainer.distributed.rank else state) as writer:
        return _TrainingLoop(trainer, writer, report, saved, caught).run()


class _TrainingLoop:
    """The state of a running loop: steps and tokens so far, and what was last saved."""

    def __init__(
        self, trainer: Trainer, writer: CheckpointWriter, report: LogEvent, saved: TrainResult, caught: list[str]
    ) -> None:
        self.trainer, self.report, self.saved, self.caught = trainer, report, saved, caught
        self.step, self.tokens = saved.steps, saved.tokens
        self.started = time.perf_counter() - saved.training_seconds
        self.saves = CheckpointManager(trainer, writer, report)
        every = 1 if trainer.device.torch_device.type == "cpu" else 50
        self.losses = LossReporter(trainer, report, self.clock, every=every)

    def clock(self) -> float:
        """Seconds of the training clock on this process."""
        return time.perf_counter() - self.started

    def run(self) -> TrainResult:
        """Step until a limit or a signal; the result is that of the final checkpoint."""
        now = TrainingProgress(
            self.step, self.trainer.settings.steps, self.saved.training_seconds, self.saved.time_limit
        )
        while True:
            now, stopped = self.progress(now)
            ended = now.fraction >= 1.0
            if self.unsaved(now, final=stopped or ended):
                self.save(wait=stopped or ended)
            elif stopped:
                name = self.caught[0] if self.caught else "a signal"
                raise Interrupted(f"stopped by {name} after step {self.step}", hint="go on with --resume")
            elif ended:
                return self.saved
            else:
                self.train_step(now)

    def progress(self, before: TrainingProgress) -> tuple[TrainingProgress, bool]:
        """The progress of the run, and whether a signal has come: by the clock and the signals of rank 0.

        Learning rates follow the clock, so all ranks must have the same one.
        """
        if before.steps_left < 3:
            self.losses.flush()  # waits for the device, or a step could begin after the limit
        elapsed, stopped = broadcast_list([self.clock(), bool(self.caught)], self.trainer.distributed)
        return TrainingProgress(self.step, self.trainer.settings.steps, elapsed, self.saved.time_limit), bool(stopped)

    def unsaved(self, progress: TrainingProgress, *, final: bool) -> bool:
        """Whether to save now: after a step, where it is the last one or a checkpoint is due."""
        return self.step > self.saved.steps and (
            final or self.saves.due(progress.elapsed_seconds - self.saved.training_seconds)
        )

    def save(self, *, wait: bool) -> None:
        """Save a checkpoint. It takes time, and a signal may come meanwhile: the clock is read again afterwards."""
        self.losses.flush()
        state = self.saves.checked_state(self.step)
        seconds = broadcast_scalar(self.clock(), self.trainer.distributed)
        self.saved = TrainResult(self.step, self.tokens, seconds, self.losses.last, self.saved.time_limit)
        self.saves.save(self.saved, state, wait=wait)

    def train_step(self, progress: TrainingProgress) -> None:
        """One training step; reports a phase that began with it, and its loss."""
        loss = self.trainer.step(self.step, progress)
        if begun := self.trainer.phases.last_change:
            losses = {"loss_before": begun.loss_before, "loss_after": begun.loss_after}
            self.report("phase", step=self.step, phase_start=begun.phase_start, **losses)
        self.step += 1
        self.tokens += self.trainer.settings.batch_shape(progress.fraction).tokens
        self.losses.record(self.step, self.tokens, loss)


@contextmanager
def _deferred_signals() -> Iterator[list[str]]:
    """SIGINT and SIGTERM are noted, and answered between two steps; outside a main thread nothing is changed."""
    caught: list[str] = []

    with signals_to(lambda number: caught.append(signal.Signals(number).name)):
        yield caught
