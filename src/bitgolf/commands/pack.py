"""`bitgolf pack`: quantize and pack a run again, with step sizes that make an artifact just fit a byte cap."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bitgolf.artifact.container import Artifact, read_artifact
from bitgolf.artifact.model import STORED_FIELDS, model_bytes
from bitgolf.commands.size_search import TOLERANCE, SizeModel, bytes_per_log2, scale_range, scale_steps, search_size
from bitgolf.config.edits import diff
from bitgolf.config.recipe_file import write_recipe
from bitgolf.config.spec import Spec
from bitgolf.errors import CorruptFileError
from bitgolf.files import write_bytes
from bitgolf.pipeline.code_size import CodeSize, check_room, code_size
from bitgolf.pipeline.state import check_run_folder
from bitgolf.pipeline.trained_run import TrainedRun
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.encoding import Rules
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from bitgolf.runtime.device import select_device
from bitgolf.runtime.folder_lock import folder_lock
from bitgolf.tokens.loading import tokenizer_from_bytes


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

    artifact: the file that was written; recipe: the run's recipe with the settings of this artifact.
    counted: what `bytes` counts and the cap limits: `model` (without the tokenizer), `model+code` (with the script that
    `export` writes), as in the recipe, or `file`. code: size of the script, None if none can be made.
    bytes_under_cap: cap - bytes. within_tolerance: whether that is at most 0.05 % of the cap. finest: whether the cap is
    above the largest file, so that the steps are the finest. settings: changed settings of `quantize`. probes: all
    encodings of the search.
    """

    run: str
    artifact: str
    recipe: str
    cap: int
    counted: str
    code: int | None
    bytes: int
    bytes_under_cap: int
    within_tolerance: bool
    finest: bool
    log2_step_scale: float
    settings: list[ChangedSetting]
    probes: list[PackProbe]
    seconds: float


def pack_to_cap(folder: Path, cap: int | None = None, *, self_contained: bool = False) -> PackResult:
    """Quantize and pack a run again, with step sizes at which its artifact has at most `cap` bytes and hardly fewer.

    cap: bytes; None for the recipe's cap. What it limits is `pack.counted` of the recipe. self_contained: count the whole
    file instead. The artifact and its recipe are written beside those of the run, which are not changed. Raises
    `BitgolfError` if no step size reaches the cap; nothing is written then.
    """
    check_run_folder(folder)
    log = RunLog(folder, delayed=True)
    try:
        with folder_lock(folder):
            session = EncodingSession(device=select_device().torch_device)
            trained = TrainedRun(folder, log, session)
            log.info(session.description)
            return _CapSearch(trained, cap or trained.run.recipe().pack().cap, self_contained).search()
    finally:
        log.close()


class _BestArtifact(NamedTuple):
    """The largest artifact within the cap so far: the counted bytes, its recipe, and the file."""

    counted: int
    recipe: Spec[Recipe]
    data: bytes


class _CapSearch:
    """The search for one cap; keeps the largest artifact within it."""

    def __init__(self, trained: TrainedRun, cap: int, self_contained: bool) -> None:
        self.trained, self.cap, self.self_contained = trained, cap, self_contained
        self.run, self.log, self.probes = trained.run, trained.run.log, 0
        self.best: _BestArtifact | None = None

    def search(self) -> PackResult:
        started, rules = time.perf_counter(), self.run.recipe().quantize
        check_room(self.run.recipe.set("pack.cap", self.cap)().pack(), CodeSize(self._code_bytes(self.run.recipe)))
        scales = scale_range(rules)
        found = search_size(self._try, self.cap, self._initial_model(), scales)
        under = self.cap - found.best.bytes
        within = under <= TOLERANCE * self.cap
        finest = not within and found.best.log2_step_scale == scales[0]
        if not within:
            reason = "even the finest steps make no larger file" if finest else "the size of a file changes in jumps"
            self.log.event("warning", message=f"the closest size is {under:,} bytes below the cap: {reason}")
        assert self.best
        counted = "file" if self.self_contained else self.run.recipe().pack().counted
        artifact, recipe = self._write(counted)
        return PackResult(
            run=str(self.run.folder),
            artifact=str(artifact),
            recipe=str(recipe),
            cap=self.cap,
            counted=counted,
            code=self._code(self.best.recipe).bytes,
            bytes=found.best.bytes,
            bytes_under_cap=under,
            within_tolerance=within,
            finest=finest,
            log2_step_scale=found.best.log2_step_scale,
            settings=_changed_settings(rules, scale_steps(rules, found.best.log2_step_scale)),
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
                model.points.append((0.0, self._counted(artifact, self.run.recipe)))
                return model
        further = len(self.trained.tokenizer) if self.self_contained else self._code_bytes(self.run.recipe)
        model.forecast = (0.0, self.trained.forecast() + further)
        return model

    def _try(self, log2_step_scale: float, predicted: int) -> int:
        """Encode with scaled steps; returns the bytes of the artifact."""
        self.probes += 1
        probe = f"probe {self.probes}"
        self.log.info(f"{probe}: step scale 2^{log2_step_scale:+.4f}, predicted {predicted:,} bytes …")
        rules = scale_steps(self.run.recipe().quantize, log2_step_scale)
        recipe = self.run.recipe.set("quantize", rules).set("pack.cap", self.cap)
        data = model_bytes(recipe, self.trained.encode(recipe), self.trained.tokenizer)
        size = self._counted(read_artifact(data), recipe)
        if size <= self.cap and (self.best is None or size > self.best.counted):
            self.best = _BestArtifact(size, recipe, data)
        where = f"{abs(self.cap - size):,} bytes {'under' if size <= self.cap else 'over'} the cap"
        self.log.info(f"{probe}: {size:,} bytes, {where}; prediction error {predicted / size - 1:+.2%}")
        self.log.event("probe", log2_step_scale=log2_step_scale, predicted_bytes=predicted, bytes=size)
        return size

    def _counted(self, artifact: Artifact, recipe: Spec[Recipe]) -> int:
        """Bytes that the cap limits of the artifact of a recipe."""
        if self.self_contained:
            return artifact.bytes
        return artifact.bytes - len(artifact.sections["tokenizer"].data) + self._code_bytes(recipe)

    def _code(self, recipe: Spec[Recipe]) -> CodeSize:
        return code_size(recipe, tokenizer_from_bytes(self.trained.tokenizer).kind)

    def _code_bytes(self, recipe: Spec[Recipe]) -> int:
        """Bytes of the script that the cap limits; the script depends on the scaled steps, if only by a few bytes."""
        pack = recipe().pack()
        return 0 if self.self_contained or pack.counted == "model" else pack.counted_code(self._code(recipe).bytes)

    def _write(self, counted: str) -> tuple[Path, Path]:
        """Write the best artifact and its recipe beside those of the run; returns their paths."""
        assert self.best is not None
        artifact = self.run.files.packed_artifact(self.cap, counted)
        recipe = artifact.with_suffix(".json")
        self.log.start_writing()
        write_recipe(recipe, self.best.recipe)
        write_bytes(artifact, self.best.data)
        self.log.info(f"written: {artifact}, with its settings in {recipe.name}")
        return artifact, recipe


def _changed_settings(before: Rules, after: Rules) -> list[ChangedSetting]:
    return [
        ChangedSetting(f"quantize.{i}.{path}", old, new)
        for i, (a, b) in enumerate(zip(before, after, strict=True))
        for path, old, new in diff(a, b)
    ]
