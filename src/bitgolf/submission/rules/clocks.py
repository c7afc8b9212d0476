"""Rules on the clocks: 600 s of training, calibration included, and 600 s of scoring."""

from __future__ import annotations

from bitgolf.submission.finding import Found, Record, RecordRule
from bitgolf.submission.log_figures import LogFigures

LIMIT = 600.0
"""Seconds of training, and of scoring."""
GPUS = 8
"""GPUs for which the limits are meant. A log that does not state their number is not held against the limits."""
LONGEST_STEPS = 6.0
"""Seconds over the limit that are still taken for the end of the last step and of a validation."""
SLACK = 1.0
"""Seconds over the limit that are not reported for calibration: the last step."""


def training_over_limit(record: Record) -> Found:
    for log in _timed(record):
        if _gpus(log) == GPUS and log.training and log.training.seconds > LIMIT + LONGEST_STEPS:
            yield log.name, log.training.line, f"Training took {log.training.seconds:,.1f} s of {LIMIT:.0f} s."


def scoring_over_limit(record: Record) -> Found:
    """One evaluation alone, or all of them as the log adds them up, took longer than the limit."""
    for log in _timed(record):
        if _gpus(log) != GPUS:
            continue
        if log.total_evaluation and log.total_evaluation.seconds > LIMIT:
            seconds, line = log.total_evaluation
            yield log.name, line, f"Scoring took {seconds:,.1f} s of {LIMIT:.0f} s."
            continue
        last = log.final_scores[-1]
        if last.seconds and last.seconds > LIMIT and last.stage in ("quantized", "window", "adapted"):
            yield log.name, last.line, f"The last evaluation took {last.seconds:,.1f} s of {LIMIT:.0f} s."


def calibration_outside_clock(record: Record) -> Found:
    for log in _timed(record):
        if log.training and log.calibration:
            total = log.training.seconds + log.calibration.seconds
            if total > LIMIT + SLACK:
                evidence = (
                    f"Training took {log.training.seconds:,.1f} s and collecting Hessians, which reads training data, "
                    f"{log.calibration.seconds:,.1f} s more: {total:,.1f} s of {LIMIT:.0f} s."
                )
                yield log.name, log.calibration.line, evidence


def other_machine(record: Record) -> Found:
    for log in _timed(record):
        if _gpus(log) not in (0, GPUS):
            size, line = log.whole["world_size"]
            yield log.name, line, f"It ran on {size} GPU(s); the limits of the challenge are for {GPUS}."


def _gpus(log: LogFigures) -> int:
    """Return the number of GPUs that a log states, 0 if it states none."""
    return log.whole.get("world_size", (0, 0))[0]


def _timed(record: Record) -> list[LogFigures]:
    """Return the logs to which the limits apply: of the claimed score, in a track with limits."""
    return record.claimed_logs if record.folder.is_timed else []


RULES = (
    RecordRule("training-over-limit", "error", training_over_limit),
    RecordRule("scoring-over-limit", "error", scoring_over_limit),
    RecordRule("calibration-outside-clock", "warning", calibration_outside_clock),
    RecordRule("other-machine", "warning", other_machine),
)
