"""`bitgolf sweep`: all combinations of quantization and packing settings on one trained run, in a table."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

from bitgolf.artifact.model import STORED_FIELDS, pack_model
from bitgolf.config.parse import apply_assignment
from bitgolf.config.paths import resolve_path
from bitgolf.config.requirements import requirements
from bitgolf.config.spec import Spec, schema
from bitgolf.data.manifest import data_digest
from bitgolf.errors import CorruptFileError, FormatVersionError, UsageError
from bitgolf.files import json_digest, write_bytes
from bitgolf.pipeline.compression import load_meta_model, quantize_inputs
from bitgolf.pipeline.state import check_run_folder
from bitgolf.pipeline.trained_run import TrainedRun
from bitgolf.quantize.calibration.calibrate import check_calibration
from bitgolf.quantize.codecs.codec import matrix_shape
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.encoding import decode_model
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from bitgolf.runtime.device import select_device
from bitgolf.runtime.folder_lock import folder_lock
from bitgolf.score.held_out_bpb import HeldOutBpb
from bitgolf.score.text import load_validation
from bitgolf.sweeps.assignments import split_assignment

SWEEPABLE = ("quantize", "pack")
SWEEP_FILE = "sweep.jsonl"
SWEEP_FORMAT = 2
"""Format number of the rows of `sweep.jsonl`."""


class SweepRow(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one combination of settings. In `sweep.jsonl`, each row also has a format number.

    key: digest of weights, calibration, validation data, settings and `tokens`. settings: path -> value as given.
    bytes: of the artifact without the tokenizer. predicted_gap_bpb: predicted cost of rounding; None without
    calibration.
    bpb: on `tokens` held-out targets. gap_bpb: bpb minus that of the averaged weights. Both are None without scoring.
    """

    key: str
    settings: dict[str, str]
    bytes: int
    predicted_gap_bpb: float | None
    bpb: float | None
    gap_bpb: float | None
    tokens: int | None
    seconds: float


class SweepResult(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `sweep --json`. paths: paths of the settings, in the order of the options."""

    run: str
    paths: list[str]
    averaged_bpb: float | None
    rows: list[SweepRow]


def parse_values(assignment: str) -> tuple[str, list[str]]:
    """Split `PATH=A,B` into the path and its values.

    Commas within brackets or quotes do not separate: `(1,2),(3,)` has two values. The path may be short
    (`config.paths`). Raises `UsageError` if the assignment is malformed or its path is in another stage of the recipe
    than `quantize` and `pack`.
    """
    path, values = split_assignment(assignment)
    if path.split(".")[0] in schema(Recipe):
        _require_sweepable(path)
    return path, values


def _require_sweepable(path: str) -> str:
    """Return a full path. Raises `UsageError` if it is not below `quantize` or `pack`."""
    if path.split(".")[0] not in SWEEPABLE:
        raise UsageError(
            f"{path} takes effect before quantization, so a sweep cannot change it",
            where="--set",
            hint=f"use paths below {' and '.join(SWEEPABLE)}; for other settings, which need a run for each value, "
            "name a recipe: bitgolf sweep RECIPE",
        )
    return path


def _full_paths(found: Mapping[str, Sequence[str]], recipe: Spec[Recipe]) -> dict[str, Sequence[str]]:
    """Full path -> values. Raises `UsageError` for a path that cannot be swept, or that is given twice."""
    paths = [_require_sweepable(resolve_path(recipe, path)) for path in found]
    if len(set(paths)) < len(paths):
        raise UsageError(f"each path may be given once, got {', '.join(found)}", where="--set")
    return dict(zip(paths, found.values(), strict=True))


def sweep(folder: Path, assignments: Sequence[str], *, tokens: int | None = None) -> SweepResult:
    """Encode and pack every combination of settings; append the rows to `sweep.jsonl` in the run's folder.

    assignments: `PATH=VALUE,VALUE`, with values as in `--set`. tokens: number of held-out tokens to score; None for no
    scoring. Rows with the same key are reused. All recipes are built before the first encoding, so that a wrong value
    is reported at once. Raises `UsageError` for a wrong or missing assignment.
    """
    found = dict(parse_values(assignment) for assignment in assignments)
    if len(found) < len(assignments) or not assignments:
        given = ", ".join(assignments) or "none"
        raise UsageError(f"give --set at least once, and each path only once, got {given}", where="--set")
    check_run_folder(folder)
    with folder_lock(folder):
        return _sweep(folder, found, tokens)


def _sweep(folder: Path, found: Mapping[str, Sequence[str]], tokens: int | None) -> SweepResult:
    """`sweep` with parsed assignments: path -> values."""
    session = EncodingSession(device=select_device().torch_device)
    work = _SweepRun(TrainedRun(folder, RunLog(), session), tokens)
    found = _full_paths(found, work.run.recipe)
    named = [dict(zip(found, values, strict=True)) for values in itertools.product(*found.values())]
    plan = [(settings, work.recipe(settings)) for settings in named]
    rows, file = _read_rows(folder / SWEEP_FILE), folder / SWEEP_FILE
    keys = [work.key(recipe) for _, recipe in plan]
    work.log.info(session.description)
    for i, ((settings, recipe), key) in enumerate(zip(plan, keys, strict=True)):
        words = " ".join(f"{path}={value}" for path, value in settings.items())
        if key in rows:
            work.log.info(f"{i + 1} of {len(plan)}: {words}: reused from {SWEEP_FILE}")
            continue
        work.log.info(f"{i + 1} of {len(plan)}: {words} …")
        rows[key] = work.row(key, settings, recipe)
        write_bytes(file, "".join(map(_line, rows.values())).encode())
    selected = [msgspec.structs.replace(rows[key], settings=named[i]) for i, key in enumerate(keys)]
    averaged = work.averaged if tokens else None
    return SweepResult(run=str(folder), paths=list(found), averaged_bpb=averaged, rows=selected)


class _SweepRun:
    """A run, and what all rows of its sweep share."""

    def __init__(self, trained: TrainedRun, tokens: int | None) -> None:
        self.trained, self.tokens = trained, tokens
        self.run, self.log = trained.run, trained.run.log
        self._input_digests = quantize_inputs(self.run)[:-1], data_digest(self.run.data_folder)

    def recipe(self, settings: dict[str, str]) -> Spec[Recipe]:
        """The run's recipe with these settings. Raises `BitgolfError` if it cannot be quantized or packed."""
        recipe = self.run.recipe
        for path, value in settings.items():
            recipe = apply_assignment(recipe, f"{path}={value}")
        built = recipe()
        for rule in built.quantize:
            rule().use()
        built.pack().groups_by_path(self.trained.roles)
        if built.calibrate is None:
            check_calibration(built.quantize, built.calibrate)
        return recipe

    def key(self, recipe: Spec[Recipe]) -> str:
        """Key of the row: see `SweepRow`."""
        whole = recipe.to_json()
        settings = [whole[name] for name in STORED_FIELDS]
        needed = msgspec.to_builtins(requirements(settings))
        return json_digest([self._input_digests, settings, self.tokens, *needed])

    def row(self, key: str, settings: dict[str, str], recipe: Spec[Recipe]) -> SweepRow:
        """Encode and pack the weights by a recipe, and score them if `tokens` is set."""
        started, trained = time.perf_counter(), self.trained
        codes = trained.encode(recipe)
        artifact = pack_model(recipe, codes, trained.tokenizer)
        decoded = decode_model(codes, trained.shapes, trained.roles, recipe().quantize)
        bpb = self._evaluator.bpb(decoded) if self.tokens else None
        return SweepRow(
            key=key,
            settings=settings,
            bytes=artifact.bytes - len(artifact.sections["tokenizer"].data),
            predicted_gap_bpb=self._predicted(decoded),
            bpb=bpb,
            gap_bpb=None if bpb is None else bpb - self.averaged,
            tokens=self.tokens,
            seconds=round(time.perf_counter() - started, 2),
        )

    @cached_property
    def averaged(self) -> float:
        """bpb of the averaged weights, without quantization."""
        return self._evaluator.bpb(self.trained.weights)

    def _predicted(self, decoded: Mapping[str, Tensor]) -> float | None:
        """Predicted increase in bpb by quantization; None without calibration."""
        if self.trained.stats is None:
            return None
        nats = 0.0
        for path, stats in self.trained.stats.items():
            error = decoded[path] - self.trained.weights[path]
            nats += float(stats.cost(error.reshape(matrix_shape(tuple(error.shape)))).double().sum())
        return nats / math.log(2) / self._evaluator.bytes_per_token

    @cached_property
    def _evaluator(self) -> HeldOutBpb:
        run = self.run
        text, method = load_validation(run.data_folder), run.recipe().score[0]()
        return HeldOutBpb(load_meta_model(run), text, method, select_device(), self.tokens or 1)


def _line(row: SweepRow) -> str:
    return json.dumps({"format": SWEEP_FORMAT, **msgspec.to_builtins(row)}) + "\n"


def _read_rows(file: Path) -> dict[str, SweepRow]:
    """Key -> row of earlier sweeps.

    Raises `FormatVersionError` for rows of another format, and `CorruptFileError` if the file is not valid.
    """
    if not file.exists():
        return {}
    try:
        rows: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            if (found := row.get("format")) != SWEEP_FORMAT:
                raise FormatVersionError("the sweep table", found=found, supported=SWEEP_FORMAT, where=str(file))
        return {row.key: row for row in msgspec.convert(rows, list[SweepRow])}
    except (ValueError, TypeError, AttributeError) as error:
        message, hint = f"not a sweep table ({error})", "move the file away; the sweep then starts a new one"
        raise CorruptFileError(message, where=str(file), hint=hint) from error
