"""Warnings about a training: what it did not use, that it diverged before, and that it has learnt nothing."""

from __future__ import annotations

from pathlib import Path

from bitgolf.report.events import read_events, training_losses
from bitgolf.report.log import RunLog
from bitgolf.training.trainer import Trainer


def warn_of_unused(log: RunLog, trainer: Trainer, epochs: float, tokens: int) -> None:
    """Log warnings about phases that were not reached and text that was read more than once."""
    if missed := trainer.phases.never_reached:
        message = f"training ended before the phase at {missed[0]:g} of the run: the scored model was not trained in it"
        log.event("warning", message=message)
    if epochs > 1:
        message = f"training read its text {epochs:.1f} times ({tokens:,} tokens): more text may improve the score"
        log.event("warning", message=message)


def warn_of_divergence(log: RunLog, file: Path) -> None:
    """Log a warning if the training that is resumed ended by divergence."""
    ends = [event for event in read_events(file).events if event["event"] in ("diverged", "resume", "stage_done")]
    if ends and ends[-1]["event"] == "diverged":
        message = (
            f"this training diverged before ({ends[-1].get('message')}); with the same settings it will probably do so"
            " again: lower the learning rates and train again with --from train"
        )
        log.event("warning", message=message)


def warn_if_nothing_learnt(log: RunLog, file: Path) -> None:
    """Log a warning if the mean loss of the last tenth of the steps is not below that of the first tenth."""
    losses = [loss for _, loss in training_losses(read_events(file).events)]
    size = max(1, len(losses) // 10)
    first, last = (sum(part) / size for part in (losses[:size], losses[-size:]))
    if len(losses) > 1 and not last < first:
        message = (
            f"the loss ended no lower than it began ({first:.4f} nats per token at the start, {last:.4f} at the end):"
            " the model has learnt nothing; the learning rates may be too high, or 0"
        )
        log.event("warning", message=message)
