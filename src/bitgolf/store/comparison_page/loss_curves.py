"""Training losses of runs that can be drawn over each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bitgolf.data.manifest import data_digest
from bitgolf.errors import BitgolfError
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.report.events import StepRow, ValidationRow, read_events, training_steps, validation_rows
from bitgolf.store.comparison import RunGroup


class LossCurve(NamedTuple):
    """The logged steps of a run, with finite losses. group: number of its group.

    validation: scores of held-out text during training.
    """

    folder: str
    group: int
    rows: Sequence[StepRow]
    validation: Sequence[ValidationRow] = ()


def loss_curves(groups: Sequence[RunGroup]) -> dict[str, list[LossCurve]]:
    """Digest of the prepared data -> curves of the runs that were trained on it.

    Losses are nats per token, so only those of the same data and tokenizer are comparable. Runs without a log or without
    data, such as imported ones, have no curve.
    """
    found = dict[str, list[LossCurve]]()
    for number, group in enumerate(groups):
        for run in group.runs:
            folder = Path(run.folder)
            events = read_events(RunFiles(folder).log).events
            rows = [row for row in training_steps(events) if math.isfinite(row.loss)]
            validation = [row for row in validation_rows(events) if math.isfinite(row.bpb)]
            if rows and (data := _data_of(folder)):
                found.setdefault(data, []).append(LossCurve(run.folder, number, rows, validation))
    return found


def _data_of(folder: Path) -> str:
    """Return the digest of a run's data, "" if it has none or it cannot be read."""
    try:
        return data_digest(folder / "data")
    except (BitgolfError, OSError):
        return ""
