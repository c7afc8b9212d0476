"""`bitgolf pack`: quantize and pack a run again, with the step sizes at which its artifact fills a byte cap."""

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
    """A scale of the steps that was tried. log2_step_scale: 0 is the recipe's steps, 1 twice as large.
    predicted_bytes: expected before it was encoded; bytes: found."""

    log2_step_scale: float
    predicted_bytes: int
    bytes: int


class ChangedSetting(msgspec.Struct, frozen=True):
    """A setting of the recipe, by its path."""

    path: str
    before: Any
    after: Any


class PackResult(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `pack --json`.

    counted: what has `bytes` and is compared with the cap: `model` (without the tokenizer) or `file`.
    within_tolerance: the file is at most 0.05 % below the cap.
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
    """Quantize and pack a run anew, with the steps at which its artifact has at most `cap` bytes and hardly fewer.

    cap: None is the recipe's own. It counts the model as the challenge does, or all of the file (`self_contained`).
    The folder then is that of a run with these settings, which is not scored yet.
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
    """The search for one cap; keeps the codes of the best settings that it met."""

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
            message = f"no setting came nearer to the cap than {under:,} bytes: so small a file moves in leaps"
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
        """Where the search begins: at what the run was packed to, or else at a forecast."""
        rules = self.run.recipe().quantize
        moved = bytes_per_log2(rules, self.trained.roles, self.trained.sizes)
        model = SizeModel(moved, TOLERANCE * self.cap)
        with suppress(CorruptFileError):  # or none at all, which is no worse
            artifact = read_artifact(self.run.files.artifact)
            whole = self.run.recipe.to_json()
            if "pack" in self.run.completed and artifact.recipe == {name: whole[name] for name in STORED_FIELDS}:
                model.points.append((0.0, self._counted(artifact)))
                return model
        model.forecast = (0.0, self.trained.forecast() + self.self_contained * len(self.trained.tokenizer))
        return model

    def _try(self, log2_step_scale: float, predicted: int) -> int:
        """Bytes of the artifact with the steps of one scale."""
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
        self.log.info(f"{probe}: {size:,} bytes, {where}; the estimate was off by {predicted / size - 1:+.2%}")
        self.log.event("probe", log2_step_scale=log2_step_scale, predicted_bytes=predicted, bytes=size)
        return size

    def _counted(self, artifact: Artifact) -> int:
        return artifact.bytes - (0 if self.self_contained else len(artifact.sections["tokenizer"].data))

    def _write(self) -> Spec[Recipe]:
        """Do the stages `quantize`, with the codes that are there, and `pack`, with the best recipe; returns that."""
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
