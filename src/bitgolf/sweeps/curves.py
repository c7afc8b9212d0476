"""Held-out scores during the training of a run."""

from __future__ import annotations

from pathlib import Path

from bitgolf.pipeline.run_files import RunFiles
from bitgolf.report.events import read_events, validation_rows
from bitgolf.sweeps.gates import Curve, CurvePoint


def validation_curve(folder: Path) -> Curve:
    """The scores of held-out text during the last training of a run."""
    rows = validation_rows(read_events(RunFiles(folder).log).events)
    return tuple(CurvePoint(row.step, row.training_seconds, row.bpb) for row in rows)
