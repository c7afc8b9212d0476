"""`bitgolf pack`: quantize and pack a run again, with step sizes that make its artifact just fit a byte cap."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from bitgolf.artifact.container import Artifact, read_artifact
from bitgolf.artifact.model import STORED_FIELDS, pack_model
from bitgolf.commands.size_search import TOLERANCE, SizeModel, bytes_per_log2, scale_range, scale_steps, search_size
from bitgolf.config.edits import diff
from bitgolf.config.spec import Spec
from bitgolf.errors import CorruptFileError
from bitgolf.pack.streams import EncodedTensor
from bitgolf.pipeline.compression import QuantizedTensors, save_quantized
from bitgolf.pipeline.execute import run_stage
from bitgolf.pipeline.stages import stage_named
from bitgolf.pipeline.state import Run, RunFiles
from bitgolf.pipeline.trained_run import TrainedRun
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.encoding import Rules
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from bitgolf.runtime.device import select_device


class PackProbe(msgspec.Struct, frozen=True):
    """One encoding of the search.

    log2_step_scale: 0 for the recipe's steps, 1 for twice as large steps. predicted_bytes: prediction before the
    encoding;
    bytes: the result.
    """

    log2_step_scale: float
    predicted_bytes: int
    bytes: int


class ChangedSetting(msgspec.Struct, frozen=True):
    """A changed setting of the recipe: its path, and its values before and after."""

    path: str
    before: Any
    after: Any


class PackResult(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `pack --json`.

    counted: what `bytes` counts and the cap limits: `model` (without the tokenizer) or `file`.
    bytes_under_cap: cap - bytes. within_tolerance: whether that is at most 0.05 % of the cap.
    settings: changed settings of `quantize`. probes: all encodings of the search.
    """

    run: str
    cap: int
    counted: str
    bytes: int
    bytes_under_cap: int
    within_tolerance: bool
    log2_step_scale: float
    settings: list[ChangedSetting]
    probes: list[PackProbe]
    seconds: float


def pack_to_cap(folder: Path, cap: int | None = None, *, self_contained: bool = False) -> PackResult:
    """Quantize and pack a run again, with step sizes at which its artifact has at most `cap` bytes and hardly fewer.

    cap: bytes; None for the recipe's cap. self_contained: count the whole file instead of the model alone.
    Afterwards the folder is that of a run with these settings, completed up to `pack`. Raises `BitgolfError` if no step
    size reaches the cap.
    """
    log = RunLog(folder) if RunFiles(folder).recipe.exists() else RunLog()
    try:
        session = EncodingSession(device=select_device().torch_device)
        trained = TrainedRun(folder, log, session)
        log.info(session.description)
        return _CapSearch(trained, cap or trained.run.recipe().pack().cap, self_contained).search()
    finally:
        log.close()


class _CapSearch:
    """The search for one cap; keeps the codes of the largest artifact within it."""

    def __init__(self, trained: TrainedRun, cap: int, self_contained: bool) -> None:
        self.trained, self.cap, self.self_contained = trained, cap, self_contained
        self.run, self.log, self.probes = trained.run, trained.run.log, 0
        self.best: tuple[int, Spec[Recipe], dict[str, EncodedTensor]] | None = None

    def search(self) -> PackResult:
        started, rules = time.perf_counter(), self.run.recipe().quantize
        found = search_size(self._try, self.cap, self._initial_model(), scale_range(rules))
        recipe = self._write()
        under = self.cap - found.best.bytes
        within = under <= TOLERANCE * self.cap
        if not within:
            message = f"the closest size is {under:,} bytes below the cap: the size of a small file changes in jumps"
            self.log.event("warning", message=message)
        return PackResult(
            run=str(self.run.folder),
            cap=self.cap,
            counted="file" if self.self_contained else "model",
            bytes=found.best.bytes,
            bytes_under_cap=under,
            within_tolerance=within,
            log2_step_scale=found.best.log2_step_scale,
            settings=_changed_settings(rules, recipe().quantize),
            probes=[PackProbe(*probe) for probe in found.probes],
            seconds=round(time.perf_counter() - started, 2),
        )

    def _initial_model(self) -> SizeModel:
        """The start of the search: the size of the run's artifact if it has one, otherwise a forecast."""
        rules = self.run.recipe().quantize
        moved = bytes_per_log2(rules, self.trained.roles, self.trained.sizes)
        model = SizeModel(moved, TOLERANCE * self.cap)
        with suppress(CorruptFileError):  # a damaged or missing artifact: start from the forecast
            artifact = read_artifact(self.run.files.artifact)
            whole = self.run.recipe.to_json()
            if "pack" in self.run.completed and artifact.recipe == {name: whole[name] for name in STORED_FIELDS}:
                model.points.append((0.0, self._counted(artifact)))
                return model
        model.forecast = (0.0, self.trained.forecast() + self.self_contained * len(self.trained.tokenizer))
        return model

    def _try(self, log2_step_scale: float, predicted: int) -> int:
        """Encode with scaled steps; returns the bytes of the artifact."""
        self.probes += 1
        probe = f"probe {self.probes}"
        self.log.info(f"{probe}: step scale 2^{log2_step_scale:+.4f}, predicted {predicted:,} bytes …")
        rules = scale_steps(self.run.recipe().quantize, log2_step_scale)
        recipe = self.run.recipe.set("quantize", rules).set("pack.cap", self.cap)
        codes = self.trained.encode(recipe)
        size = self._counted(pack_model(recipe, codes, self.trained.tokenizer))
        if size <= self.cap and (self.best is None or size > self.best[0]):
            self.best = size, recipe, codes
        where = f"{abs(self.cap - size):,} bytes {'under' if size <= self.cap else 'over'} the cap"
        self.log.info(f"{probe}: {size:,} bytes, {where}; prediction error {predicted / size - 1:+.2%}")
        self.log.event("probe", log2_step_scale=log2_step_scale, predicted_bytes=predicted, bytes=size)
        return size

    def _counted(self, artifact: Artifact) -> int:
        return artifact.bytes - (0 if self.self_contained else len(artifact.sections["tokenizer"].data))

    def _write(self) -> Spec[Recipe]:
        """Record the stages `quantize` (with the codes of the search) and `pack` for the best recipe; returns it."""
        assert self.best is not None
        _, recipe, codes = self.best
        run = replace(self.run, recipe=recipe)

        def quantized(run: Run) -> QuantizedTensors:
            return save_quantized(run, self.trained.weights, codes, self.trained.roles)

        run_stage(run, stage_named("quantize"), quantized)
        run_stage(run, stage_named("pack"))
        return recipe


def _changed_settings(before: Rules, after: Rules) -> list[ChangedSetting]:
    return [
        ChangedSetting(f"quantize.{i}.{path}", old, new)
        for i, (a, b) in enumerate(zip(before, after, strict=True))
        for path, old, new in diff(a, b)
    ]
