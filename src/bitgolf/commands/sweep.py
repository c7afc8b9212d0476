"""A finished run with other settings of quantizing and packing, all combinations of them, in one table: no training."""

from __future__ import annotations

import itertools
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from bitgolf.artifact.model import SLICES, packed
from bitgolf.commands.doctor import Measure
from bitgolf.commands.pack import Trained
from bitgolf.config.parse import set_text
from bitgolf.config.spec import Spec
from bitgolf.errors import DamagedError, UsageError
from bitgolf.files import file_digest, value_digest, write_bytes
from bitgolf.pipeline.stages import empty_model, quantize_inputs
from bitgolf.quantize.calibration.calibrate import check
from bitgolf.quantize.codecs.codec import matrix_shape
from bitgolf.quantize.encoding import decode_all
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import Journal
from bitgolf.runtime.device import choose

SWEPT = ("quantize", "pack")
FILE = "sweep.jsonl"


def choices(assignment: str) -> tuple[str, list[str]]:
    """`PATH=A,B` as the path and its values. A comma within brackets or quotes belongs to a value: `(1,2),(3,)` are two."""
    path, equals, text = assignment.partition("=")
    if not equals:
        raise UsageError(f"{assignment!r} is not PATH=VALUE,VALUE")
    if path.split(".")[0] not in SWEPT:
        raise UsageError(
            f"{path} is decided before quantizing, so a sweep cannot change it",
            mend=f"paths below {' and '.join(SWEPT)}; for others, a run each",
        )
    values, depth = [""], 0
    for piece in re.findall(r"'[^']*'|\"[^\"]*\"|.", text):
        depth += (piece in "([{") - (piece in ")]}")
        if depth < 0:
            break
        if piece == "," and not depth:
            values.append("")
        else:
            values[-1] += piece
    values = [value.strip() for value in values]
    if depth or not all(values):
        raise UsageError(f"{text!r} are no values with commas between them", place=path)
    return path, values


def sweep(folder: Path, sets: Sequence[str], *, tokens: int | None = None) -> dict[str, Any]:
    """Encode and pack every combination of these settings. The run's folder gets `sweep.jsonl` and nothing else.

    sets: `PATH=VALUE,VALUE`, values as `--set` has them.  tokens: of the held-out text, to measure bpb on; None: no measuring.
    A row that is there already is not worked out again: it is known by the weights, their calibration, the settings and
    the tokens. Every recipe is made before anything is encoded, so that a wrong value costs no time.
    """
    found = dict(choices(assignment) for assignment in sets)
    if len(found) < len(sets) or not sets:
        raise UsageError("every --set needs a path of its own, and there is one at least", place="sweep")
    work = _Sweep(Trained(folder, Journal()), tokens)
    named = [dict(zip(found, values, strict=True)) for values in itertools.product(*found.values())]
    plan = [(settings, work.recipe(settings)) for settings in named]
    rows, file = _read(folder / FILE), folder / FILE
    keys = [work.key(recipe) for _, recipe in plan]
    for i, ((settings, recipe), key) in enumerate(zip(plan, keys, strict=True)):
        words = " ".join(f"{path}={value}" for path, value in settings.items())
        if key in rows:
            work.journal.say(f"{i + 1} of {len(plan)}: {words}: there already")
            continue
        work.journal.say(f"{i + 1} of {len(plan)}: {words} …")
        rows[key] = {"key": key, "set": settings, **work.row(recipe)}
        write_bytes(file, "".join(json.dumps(row) + "\n" for row in rows.values()).encode())
    return {
        "run": str(folder),
        "paths": list(found),
        "averaged_bpb": work.averaged if tokens else None,
        "rows": [{**rows[key], "set": settings} for (settings, _), key in zip(plan, keys, strict=True)],
    }


class _Sweep:
    def __init__(self, trained: Trained, tokens: int | None) -> None:
        self.trained, self.tokens = trained, tokens
        self.run, self.journal = trained.run, trained.run.journal
        self._known = quantize_inputs(self.run)[:-1], file_digest(self.run.data / "manifest.json")

    def recipe(self, settings: dict[str, str]) -> Spec[Recipe]:
        """The run's own, with these settings. Raises where it could not be quantized."""
        recipe = self.run.recipe
        for path, value in settings.items():
            recipe = set_text(recipe, f"{path}={value}")
        for rule in recipe["quantize"]:
            rule().use()
        recipe["pack"]().grouped(self.trained.roles)
        if recipe["calibrate"] is None:
            check(recipe["quantize"], recipe["calibrate"])
        return recipe

    def key(self, recipe: Spec[Recipe]) -> str:
        whole = recipe.to_json()
        return value_digest([self._known, [whole[name] for name in SLICES], self.tokens])

    def row(self, recipe: Spec[Recipe]) -> dict[str, Any]:
        """`bytes` of the model alone; what its errors should cost (`predicted`, None without calibration) and do, in bpb."""
        started, trained = time.perf_counter(), self.trained
        codes = trained.encode(recipe)
        artifact = packed(recipe, codes, trained.tokenizer)
        decoded = decode_all(codes, trained.shapes, trained.roles, recipe["quantize"])
        bpb = self._bpb(decoded) if self.tokens else None
        return {
            "bytes": artifact.bytes - len(artifact.sections["tokenizer"].data),
            "predicted": self._predicted(decoded),
            "bpb": bpb,
            "loss": None if bpb is None else bpb - self.averaged,
            "tokens": self.tokens,
            "seconds": round(time.perf_counter() - started, 2),
        }

    @cached_property
    def averaged(self) -> float:
        """bpb of the weights that are quantized, unrounded."""
        return self._bpb(self.trained.weights)

    def _bpb(self, weights: Mapping[str, Tensor]) -> float:
        return float(self._measure.bits(weights).sum())

    def _predicted(self, decoded: Mapping[str, Tensor]) -> float | None:
        if self.trained.stats is None:
            return None
        nats = 0.0
        for path, stats in self.trained.stats.items():
            error = decoded[path] - self.trained.weights[path]
            nats += float(stats.cost(error.reshape(matrix_shape(tuple(error.shape)))).double().sum())
        return nats / math.log(2) / self._measure.per_token

    @cached_property
    def _measure(self) -> Measure:
        return Measure(self.run, empty_model(self.run), self.tokens or 1, choose())


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """key -> row of what earlier sweeps found. Raises `DamagedError` for a file that is none."""
    if not file.exists():
        return {}
    try:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        return {row["key"]: row for row in rows}
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedError(f"not the table of a sweep ({error})", place=str(file), mend="move it away") from None
