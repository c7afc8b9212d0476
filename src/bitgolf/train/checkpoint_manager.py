"""When checkpoints are saved, what they hold, and how a run is restored from one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from bitgolf.runtime.distributed import broadcast_scalar
from bitgolf.train import checkpoint
from bitgolf.train.checkpoint_writer import CheckpointWriter, first_nonfinite
from bitgolf.train.loss_reporter import Diverged, LogEvent
from bitgolf.train.trainer import Trainer


class TrainResult(NamedTuple):
    """What was trained by the time of a checkpoint, the final one included."""

    steps: int = 0
    tokens: int = 0
    training_seconds: float = 0.0  # of the training clock
    loss: float = math.nan  # of the last step, nats per token
    time_limit: float = 0.0  # on those seconds; 0 is none


class CheckpointManager:
    """When state is saved, and how: checked and copied on the training clock, written by a thread meanwhile."""

    def __init__(self, trainer: Trainer, writer: CheckpointWriter, report: LogEvent) -> None:
        self.trainer, self.writer, self.report = trainer, writer, report
        self.postponed = False

    def due(self, seconds: float) -> bool:
        """Whether to save now, so many seconds after the last time. An earlier file that is not whole yet postpones it,
        unless each step is to be saved (`checkpoint_seconds` 0), which then waits."""
        every = self.trainer.settings.checkpoint_seconds
        if seconds < every:
            return False
        postponed = every > 0 and broadcast_scalar(self.writer.busy, self.trainer.distributed)
        if postponed and not self.postponed:
            message = f"a checkpoint takes more than {every:g} s to write, so the next is postponed until it is whole"
            self.report("warning", message=f"{message} (see train.checkpoint_seconds)")
        self.postponed = postponed
        return not postponed

    def checked_state(self, step: int) -> dict[str, Tensor]:
        """The trainer's state, in every process at once, as the optimizer's may be spread over them. A finite loss says
        nothing of the update after it, so all of it is checked: raises `Diverged`."""
        state = self.trainer.state_dict()
        if bad := first_nonfinite(state):
            raise Diverged(f"{bad} is not finite after step {step}")
        return state

    def save(self, reached: TrainResult, state: dict[str, Tensor], *, wait: bool) -> None:
        """Have the first process write a checkpoint; `wait` until it is whole."""
        if self.trainer.distributed.rank:
            return
        meta = {
            "tokens": reached.tokens,
            "elapsed": reached.training_seconds,
            "loss": reached.loss,
            "limit": reached.time_limit,
        }
        self.writer.submit(reached.steps, state, {**meta, "paths": list(self.trainer.params)})
        if wait:
            self.writer.wait()


def restore(trainer: Trainer, folder: Path, report: LogEvent, start: TrainResult) -> TrainResult:
    """Load the newest checkpoint in `folder` into the trainer; returns what it had reached, `start` without one."""
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
