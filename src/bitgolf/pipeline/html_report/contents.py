"""What the page of a run shows, as plain values that are read from the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from bitgolf.artifact.container import read_artifact
from bitgolf.artifact.ledger import LedgerEntry, ledger
from bitgolf.data.manifest import Manifest, data_digest, load_manifest
from bitgolf.pipeline.result import RunResult
from bitgolf.pipeline.state import Run, RunInputs
from bitgolf.report.events import current_warnings, stage_ends, training_losses, training_phases
from bitgolf.text.read_report import ReadReport


class TrainingCurve(NamedTuple):
    """losses: (step, nats per token). phases: (step, fraction of the run) at which a phase began."""

    losses: Sequence[tuple[int, float]]
    phases: Sequence[tuple[int, float]] = ()


class ReportContents(NamedTuple):
    """The contents of a page. The same contents give the same page, byte for byte.

    inputs: text or shards of the run; read: one line each about how the text was read. data, data_digest: the prepared
    data. ledger: what each byte of the artifact is used for. settings: path and value of each setting of the recipe.
    environment: contents of `environment.json`. warnings: of the log. finished: date and time of the score, "" if
    unknown.
    """

    result: RunResult
    inputs: RunInputs
    data: Manifest
    data_digest: str
    ledger: Sequence[LedgerEntry]
    settings: Sequence[tuple[str, str]]
    environment: dict[str, Any]
    training: TrainingCurve
    read: Sequence[str] = ()
    warnings: Sequence[str] = ()
    finished: str = ""


def collect_contents(
    run: Run, result: RunResult, environment: dict[str, Any], events: list[dict[str, Any]]
) -> ReportContents:
    """Read what the page of a finished run shows. events: of its log.

    Raises `CorruptFileError` if the artifact or the manifest of the data is damaged.
    """
    return ReportContents(
        result=result,
        inputs=run.inputs,
        data=load_manifest(run.data_folder),
        data_digest=data_digest(run.data_folder),
        ledger=ledger(read_artifact(run.files.artifact)),
        settings=[(path or "recipe", str(value)) for path, value in run.recipe.leaves()],
        environment=environment,
        training=TrainingCurve(training_losses(events), training_phases(events)),
        read=_read_lines(events),
        warnings=current_warnings(events),
        finished=_date(stage_ends(events).get("score")),
    )


def _read_lines(events: list[dict[str, Any]]) -> list[str]:
    """How the text was read, from the last event of its preparation; empty without one."""
    reads = [event for event in events if event["event"] == "read"]
    try:
        return msgspec.convert(reads[-1], ReadReport).lines() if reads else []
    except msgspec.ValidationError:  # a log may have been edited
        return []


def _date(seconds: float | None) -> str:
    """A time as date and time of day, "" without a time or if it is not one."""
    try:
        return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):
        return ""
