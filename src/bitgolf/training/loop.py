"""The training loop: steps up to a limit of steps or time, checkpoints, and a clean stop on signals, requests or divergence."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitgolf.errors import Interrupted, Stopped
from bitgolf.report.observers import StopRequest
from bitgolf.runtime.compiler import graph_count
from bitgolf.runtime.distributed import broadcast_list, broadcast_scalar
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.runtime.signals import signals_to
from bitgolf.training.checkpoint_manager import CheckpointManager, TrainResult, restore
from bitgolf.training.checkpoint_writer import CheckpointWriter
from bitgolf.training.loss_reporter import Diverged, LogEvent, LossReporter
from bitgolf.training.trainer import Trainer
from bitgolf.training.validation import Validation
from bitgolf.training.validator import Evaluate, Validator


def train(
    trainer: Trainer,
    folder: Path,
    report: LogEvent,
    *,
    resume: bool,
    limit: float | None = None,
    until: float = 1.0,
    stop: StopRequest | None = None,
    evaluate: Evaluate | None = None,
) -> TrainResult:
    """Train until the first limit is reached and save a final checkpoint in `folder`.

    report: called as report(kind, **fields) for each event of the log.
    resume: continue from the newest checkpoint.
    limit: seconds on the training clock (0: none); None is `train.seconds`. A resumed run keeps its original limit.
    until: fraction of the run at which training ends for now; a later call with `resume` continues it.
    stop: a request that ends training after the current step. evaluate: scores held-out text, for `train.validation`.
    Raises `Interrupted` on SIGINT and SIGTERM and `Stopped` on a request, after saving the state, and `Diverged`, without
    saving it.
    """
    start = TrainResult(time_limit=trainer.settings.seconds if limit is None else limit)
    saved = restore(trainer, folder, report, start) if resume else start
    state = trainer.state_dict()  # on every rank, as optimizer state may be sharded
    with _deferred_signals() as caught, CheckpointWriter(folder, {} if trainer.distributed.rank else state) as writer:
        training = _TrainingLoop(trainer, writer, report, saved, caught, stop, until)
        if evaluate and isinstance(trainer.settings.validation, Validation):
            training.validator = Validator(trainer.settings.validation, evaluate, trainer, report, training.start)
        try:
            return training.run()
        except Diverged as diverged:
            report("diverged", step=training.step, checkpoint_step=training.saved.steps, message=diverged.message)
            diverged.name_checkpoint(training.saved.steps)
            raise


class _TrainingLoop:
    """The loop and its state: steps and tokens trained so far, and the progress at the last checkpoint."""

    def __init__(
        self,
        trainer: Trainer,
        writer: CheckpointWriter,
        report: LogEvent,
        saved: TrainResult,
        caught: list[str],
        stop: StopRequest | None,
        until: float,
    ) -> None:
        self.trainer, self.report, self.saved, self.caught, self.stop = trainer, report, saved, caught, stop
        self.step, self.tokens, self.until = saved.steps, saved.tokens, until
        self.started = time.perf_counter() - saved.training_seconds
        self.saves = CheckpointManager(trainer, writer, report)
        every = 1 if trainer.device.torch_device.type == "cpu" else 50
        self.losses = LossReporter(trainer, report, self.clock, every=every)
        self.start = TrainingProgress(self.step, trainer.settings.steps, saved.training_seconds, saved.time_limit)
        self.validator: Validator | None = None

    def clock(self) -> float:
        """Seconds of the training clock on this process."""
        return time.perf_counter() - self.started

    def run(self) -> TrainResult:
        """Train until a limit, a signal or a request to stop; returns the progress at the final checkpoint."""
        now = self.start
        while True:
            now, stopped = self.progress(now)
            ended = now.fraction >= self.until
            if self.unsaved(now, final=stopped or ended):
                self.save(wait=stopped or ended)
            elif stopped:
                raise self.interruption()
            elif self.validator and self.validator.due(now):
                self.score_held_out(self.validator, now)
            elif ended:
                return self.saved
            else:
                self.train_step(now)

    def progress(self, before: TrainingProgress) -> tuple[TrainingProgress, bool]:
        """The current progress, and whether there is a signal or a request to stop. Both are those of rank 0.

        Schedules may depend on the clock, so all ranks must use the same time.
        """
        if before.steps_left < 3:
            self.losses.flush()  # synchronizes, so that no step starts after the limit
        ends = bool(self.caught or (self.stop and self.stop.reason))
        elapsed, stopped = broadcast_list([self.clock(), ends], self.trainer.distributed)
        return TrainingProgress(self.step, self.trainer.settings.steps, elapsed, self.saved.time_limit), bool(stopped)

    def interruption(self) -> Interrupted | Stopped:
        """The error that says what stopped training."""
        if self.stop and self.stop.reason and not self.caught:
            return Stopped(f"after step {self.step}", self.stop.reason, hint="--resume continues")
        name = self.caught[0] if self.caught else "a signal"
        return Interrupted(f"stopped by {name} after step {self.step}", hint="continue with --resume")

    def unsaved(self, progress: TrainingProgress, *, final: bool) -> bool:
        """Whether to save now: there are unsaved steps, and training ends (`final`) or a checkpoint is due."""
        return self.step > self.saved.steps and (
            final or self.saves.due(progress.elapsed_seconds - self.saved.training_seconds)
        )

    def save(self, *, wait: bool) -> None:
        """Save a checkpoint. The caller then reads clock and signals again, since saving takes time."""
        self.losses.flush()
        state = self.saves.checked_state(self.step)
        seconds = broadcast_scalar(self.clock(), self.trainer.distributed)
        self.saved = TrainResult(self.step, self.tokens, seconds, self.losses.last, self.saved.time_limit)
        self.saves.save(self.saved, state, wait=wait)

    def score_held_out(self, validator: Validator, progress: TrainingProgress) -> None:
        """Score the weights on held-out text. The clock stops meanwhile, unless the recipe puts it on the clock."""
        self.losses.flush()
        started = time.perf_counter()
        validator.measure(progress)
        if not validator.on_clock:
            self.started += time.perf_counter() - started

    def train_step(self, progress: TrainingProgress) -> None:
        """One training step. Reports its loss, a phase that starts with it, and graphs that it had to compile."""
        graphs = graph_count()
        loss = self.trainer.step(self.step, progress)
        if compiled := graph_count() - graphs:
            self.report("recompile", step=self.step, graphs=compiled)
        if change := self.trainer.phases.last_change:
            losses = {"loss_before": change.loss_before, "loss_after": change.loss_after}
            self.report("phase", step=self.step, phase_start=change.phase_start, **losses)
        self.step += 1
        self.tokens += self.trainer.settings.batch_shape(progress.fraction).tokens
        self.losses.record(self.step, self.tokens, loss)


@contextmanager
def _deferred_signals() -> Iterator[list[str]]:
    """Collect the names of received SIGINT and SIGTERM signals, which the loop handles between two steps.

    Outside the main thread signal handlers are not changed.
    """
    caught: list[str] = []

    with signals_to(lambda number: caught.append(signal.Signals(number).name)):
        yield caught
