"""Schedule and contents of checkpoints, and the restoration of a trainer from one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from bitgolf.runtime.distributed import broadcast_scalar
from bitgolf.training import checkpoint
from bitgolf.training.checkpoint_writer import CheckpointWriter, first_nonfinite
from bitgolf.training.loss_reporter import Diverged, LogEvent
from bitgolf.training.trainer import Trainer


class TrainResult(NamedTuple):
    """The progress of training at a checkpoint, and at the end of training."""

    steps: int = 0
    tokens: int = 0
    training_seconds: float = 0.0  # on the training clock
    loss: float = math.nan  # of the last step, in nats per token
    time_limit: float = 0.0  # on the training clock, in seconds; 0 is no limit


class CheckpointManager:
    """Saves the state of a trainer. Checking and copying it take training time; a background thread writes the file."""

    def __init__(self, trainer: Trainer, writer: CheckpointWriter, report: LogEvent) -> None:
        self.trainer, self.writer, self.report = trainer, writer, report
        self.postponed = False

    def due(self, seconds: float) -> bool:
        """Whether to save now. seconds: training time since the last checkpoint.

        While the previous file is still being written, a checkpoint is postponed. With `checkpoint_seconds` 0 every
        step is saved, and saving waits for the previous file instead.
        """
        every = self.trainer.settings.checkpoint_seconds
        if seconds < every:
            return False
        postponed = every > 0 and broadcast_scalar(self.writer.busy, self.trainer.distributed)
        if postponed and not self.postponed:
            message = f"writing a checkpoint takes more than {every:g} s, so the next is postponed until it is written"
            self.report("warning", message=f"{message} (train.checkpoint_seconds is the interval)")
        self.postponed = postponed
        return not postponed

    def checked_state(self, step: int) -> dict[str, Tensor]:
        """The state of the trainer after `step` steps. All processes must call this, as optimizer state may be sharded.

        Raises `Diverged` if a value is not finite: the loss of a step does not cover its update.
        """
        state = self.trainer.state_dict()
        if bad := first_nonfinite(state):
            raise Diverged(f"{bad} is not finite after step {step}")
        return state

    def save(self, reached: TrainResult, state: dict[str, Tensor], *, wait: bool) -> None:
        """Write a checkpoint on rank 0, in the background. wait: return only when the file is complete."""
        if self.trainer.distributed.rank:
            return
        meta = {
            "tokens": reached.tokens,
            "elapsed": reached.training_seconds,
            "loss": reached.loss,
            "limit": reached.time_limit,
        }
        self.writer.submit(reached.steps, state, {**meta, "paths": list(self.trainer.params)})
        self.report("checkpoint", step=reached.steps, training_seconds=reached.training_seconds)
        if wait:
            self.writer.wait()


def restore(trainer: Trainer, folder: Path, report: LogEvent, start: TrainResult) -> TrainResult:
    """Load the newest checkpoint in `folder` into the trainer; returns its progress, or `start` if there is none.

    Reports a warning for each damaged file. Raises `CorruptFileError` if all files are damaged.
    """
    found = checkpoint.load_latest(folder)
    if found is None:
        return start
    trainer.load_state_dict(found.tensors)
    for warning in found.warnings:
        report("warning", message=warning)
    tokens, elapsed, loss = int(found.meta["tokens"]), float(found.meta["elapsed"]), float(found.meta["loss"])
    result = TrainResult(found.step, tokens, elapsed, loss, float(found.meta["limit"]))
    report("resume", step=found.step, training_seconds=elapsed, time_limit_seconds=result.time_limit)
    return result
