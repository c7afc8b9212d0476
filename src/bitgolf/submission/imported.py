"""Runs of others, from their logs: one schema for scores by stage, sizes, times, seed and data, as a file of a run folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from bitgolf.errors import CorruptFileError, FormatVersionError
from bitgolf.files import file_digest, read_json, write_json
from bitgolf.submission.finding import Record
from bitgolf.submission.folder import RecordFolder
from bitgolf.submission.log_figures import LogFigures, Stage
from bitgolf.submission.rules.sizes import CODE, PACKED_TOTAL

IMPORTED_FILE = "imported.json"
IMPORT_FORMAT = 1
STAGE_NAMES: dict[Stage, str] = {
    "training": "trained",
    "averaged": "averaged",
    "quantized": "packed",
    "window": "sliding",
    "adapted": "adapted",
    "other": "other",
}
"""Stage of a score in a log -> its name in the results of own runs."""


class ImportedScore(msgspec.Struct, frozen=True):
    """A score of a log. label: the words before it. stage: as in the results of runs. line: of the log, from 1.

    nats: per token. seconds: of the evaluation. Both are None if the log does not say.
    """

    label: str
    stage: str
    bpb: float
    nats: float | None
    seconds: float | None
    line: int


class ImportedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that was read from a log. What the log does not say is None, "" or empty.

    name: of the record folder. source: its path; log: the file in it, with its digest. seed: of the run.
    bpb: stage -> the last score of it. scores: all that are no partial sums. total_bytes, model_bytes, code_bytes: of
    the packed submission. step_seconds: mean. training_seconds, calibration_seconds, evaluation_seconds: the clocks.
    world_size: GPUs. validation_tokens, documents, dataset, train_shards: the data. claimed_bpb, claimed_bytes: of the
    whole folder. behind_claim: whether this log is one of those that the claim rests on.
    """

    name: str
    source: str
    log: str
    digest: str
    seed: int | None
    bpb: dict[str, float]
    scores: list[ImportedScore]
    total_bytes: int | None
    model_bytes: int | None
    code_bytes: int | None
    steps: int
    step_seconds: float | None
    training_seconds: float | None
    calibration_seconds: float | None
    evaluation_seconds: float | None
    world_size: int | None
    validation_tokens: int | None
    documents: int | None
    dataset: str
    train_shards: int | None
    claimed_bpb: float | None
    claimed_bytes: int | None
    behind_claim: bool
    format: int = IMPORT_FORMAT

    @property
    def final_bpb(self) -> float | None:
        """The last score of the log."""
        return self.scores[-1].bpb if self.scores else None


def import_record(folder: Path) -> list[ImportedRun]:
    """Return the runs whose logs a record folder has, in the order of the names of the logs."""
    record = Record(RecordFolder(folder))
    return [_imported(folder, record, log) for log in record.logs]


def _imported(folder: Path, record: Record, log: LogFigures) -> ImportedRun:
    claims = record.claims
    claimed, size = (claims.bpb, claims.total_bytes) if claims else (None, None)
    scores = [ImportedScore(s.label, STAGE_NAMES[s.stage], s.bpb, s.nats, s.seconds, s.line) for s in log.final_scores]
    totals = [size.size for size in log.sizes if PACKED_TOTAL.search(size.label)]
    codes = [size.size for size in log.sizes if CODE.search(size.label)]
    total, code = min(totals, default=None), min(codes, default=None)
    evaluation = log.total_evaluation.seconds if log.total_evaluation else scores[-1].seconds
    return ImportedRun(
        name=folder.name,
        source=str(folder),
        log=log.name,
        digest=file_digest(folder / log.name),
        seed=log.seed,
        bpb={score.stage: score.bpb for score in scores},
        scores=scores,
        total_bytes=total,
        model_bytes=total - code if total and code else None,
        code_bytes=code,
        steps=log.steps,
        step_seconds=log.step_seconds or _mean_step(log),
        training_seconds=log.training.seconds if log.training else None,
        calibration_seconds=log.calibration.seconds if log.calibration else None,
        evaluation_seconds=evaluation,
        world_size=_whole(log, "world_size"),
        validation_tokens=_whole(log, "validation_tokens"),
        documents=_whole(log, "documents"),
        dataset=log.dataset,
        train_shards=_whole(log, "train_shards"),
        claimed_bpb=claimed.value if claimed else None,
        claimed_bytes=int(size.value) if size else None,
        behind_claim=log in record.claimed_logs,
    )


def _mean_step(log: LogFigures) -> float | None:
    return log.training.seconds / log.steps if log.training and log.steps else None


def _whole(log: LogFigures, name: str) -> int | None:
    return log.whole[name][0] if name in log.whole else None


def folder_names(runs: Iterable[ImportedRun]) -> list[str]:
    """Return a name of a run folder for each run: that of the record, with its seed, or with the name of the log."""
    listed = list(runs)
    names = [
        f"{run.name}-s{run.seed}" if run.seed is not None else f"{run.name}-{Path(run.log).stem}" for run in listed
    ]
    return [n if names.count(n) == 1 else f"{r.name}-{Path(r.log).stem}" for n, r in zip(names, listed, strict=True)]


def write_imported(folder: Path, run: ImportedRun) -> None:
    """Write a run to its folder."""
    write_json(folder / IMPORTED_FILE, msgspec.to_builtins(run))


def read_imported(folder: Path) -> ImportedRun:
    """Read the run of a folder. Raises `CorruptFileError`, and `FormatVersionError` for another format."""
    path = folder / IMPORTED_FILE
    hint = "`bitgolf import` of the record folder writes it again"
    written = read_json(path)
    if (found := written.get("format")) != IMPORT_FORMAT:
        raise FormatVersionError("the imported run", found=found, supported=IMPORT_FORMAT, where=str(path))
    try:
        return msgspec.convert(written, ImportedRun)
    except msgspec.ValidationError as error:
        raise CorruptFileError(f"not an imported run ({error})", where=str(path), hint=hint) from error
