"""What the page of a run shows, as plain values that are read from the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bitgolf.artifact.container import read_artifact
from bitgolf.artifact.ledger import LedgerEntry, ledger
from bitgolf.data.manifest import Manifest, data_digest, load_manifest
from bitgolf.errors import CorruptFileError
from bitgolf.files import read_json
from bitgolf.pipeline.learning_rates import LearningRates
from bitgolf.pipeline.result import RunResult
from bitgolf.pipeline.state import Run, RunInputs
from bitgolf.pipeline.training_result import TrainingTime
from bitgolf.quantize.encoding import TensorReport
from bitgolf.report.events import (
    MeasuredStep,
    StepRow,
    current_warnings,
    recompilations,
    stage_ends,
    step_times,
    training_checkpoints,
    training_phases,
    training_steps,
    warm_ups,
)
from bitgolf.text.read_report import ReadReport


class TrainingCurve(NamedTuple):
    """What the log says of a training.

    losses: (step, nats per token). rate_factors: (step, factor of the learning rates). step_times: seconds by step.
    phases: (step, fraction of the run) at which a phase began. checkpoints, recompilations: steps. warm_ups: (fraction
    of the run, seconds) of the graphs that were compiled before the training clock started.
    """

    losses: Sequence[tuple[int, float]]
    phases: Sequence[tuple[int, float]] = ()
    rate_factors: Sequence[tuple[int, float]] = ()
    step_times: Sequence[MeasuredStep] = ()
    checkpoints: Sequence[int] = ()
    recompilations: Sequence[int] = ()
    warm_ups: Sequence[tuple[float, float]] = ()


class ReportContents(NamedTuple):
    """The contents of a page. The same contents give the same page, byte for byte.

    inputs: text or shards of the run; read: one line each about how the text was read. data, data_digest: the prepared
    data. ledger: what each byte of the artifact is used for. settings: path and value of each setting of the recipe.
    tensors: quantization error of each tensor. learning_rates: largest learning rate by rule of the optimizer.
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
    tensors: Sequence[TensorReport] = ()
    learning_rates: Sequence[tuple[str, float]] = ()
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
        training=_training_curve(run, events),
        tensors=_tensor_rows(run.files.tensor_reports),
        learning_rates=[(f"{name} on {where}", rate) for name, where, rate in _learning_rates(run).largest],
        read=_read_lines(events),
        warnings=current_warnings(events),
        finished=_date(stage_ends(events).get("score")),
    )


def _training_curve(run: Run, events: list[dict[str, Any]]) -> TrainingCurve:
    rows = training_steps(events)
    limit = run.outcome("train", TrainingTime).time_limit_seconds
    return TrainingCurve(
        losses=[(row.step, row.loss) for row in rows],
        phases=training_phases(events),
        rate_factors=_rate_factors(_learning_rates(run), rows, limit),
        step_times=step_times(rows),
        checkpoints=training_checkpoints(events),
        recompilations=recompilations(events),
        warm_ups=warm_ups(events),
    )


def _learning_rates(run: Run) -> LearningRates:
    return LearningRates(run.recipe().train())


def _rate_factors(rates: LearningRates, rows: Sequence[StepRow], limit: float) -> list[tuple[int, float]]:
    """(step, factor of the learning rates) of the logged steps, by the schedule. limit: seconds of training, 0 for none."""
    before = [0.0, *(row.training_seconds for row in rows)]
    return [(row.step, rates.factor(row.step, start, limit)) for row, start in zip(rows, before, strict=False)]


def _tensor_rows(file: Path) -> list[TensorReport]:
    """The rows of the file of tensor reports; empty if it is missing or of another form, since only a page shows it."""
    try:
        rows = [[row[name] for name in TensorReport._fields] for row in read_json(file)]
        return msgspec.convert(rows, list[TensorReport])
    except (CorruptFileError, OSError, LookupError, TypeError, msgspec.ValidationError):
        return []


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
