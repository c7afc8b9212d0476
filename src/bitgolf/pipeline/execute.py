"""Executing a run: stages whose key is unchanged are reused, all others run.

The key of a stage is a hash of its input files and of its settings in the recipe; see `stages`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from bitgolf import __version__
from bitgolf.config.spec import Spec
from bitgolf.errors import UsageError
from bitgolf.files import json_digest, write_json
from bitgolf.pack.settings import check_coders
from bitgolf.pipeline.reporting import read_result
from bitgolf.pipeline.result import RunResult
from bitgolf.pipeline.stages import STAGE_NAMES, STAGES, Stage
from bitgolf.pipeline.state import Run, RunFiles, RunInputs, check_format, read_inputs, read_outcomes
from bitgolf.quantize.calibration.calibrate import check_calibration
from bitgolf.recipes.identity import recipe_hash
from bitgolf.recipes.recipe import Recipe
from bitgolf.recipes.time_limit import calibration_reserve, training_time_limit
from bitgolf.report.log import RunLog
from bitgolf.runtime.device import select_device


def execute(run: Run, *, from_stage: str | None = None) -> RunResult:
    """Run the stages whose inputs changed, and all from `from_stage` on; returns the result of the run.

    Raises `UsageError` if a stage before `from_stage` has changed inputs, and `RecipeError` if the recipe cannot be
    run.
    """
    recipe = run.recipe()
    check_calibration(recipe.quantize, recipe.calibrate, run.devices)
    training_time_limit(run.recipe, calibration_reserve(run.recipe) or 0.0)
    check_coders(recipe.pack)
    run = replace(run, overwrite=from_stage in ("prepare", "train"))
    forced = STAGE_NAMES.index(from_stage) if from_stage else len(STAGES)
    _begin(run)
    for i, stage in enumerate(STAGES):
        if i < forced and stage.unchanged(run):
            run.log.info(f"{stage.name}: unchanged, reused")
            continue
        if from_stage and i < forced:
            cause = f"--from {from_stage}: the earlier stage {stage.name} has changed inputs and must run first"
            raise UsageError(cause, where=str(run.folder), hint=f"use --from {stage.name}")
        run_stage(run, stage)
    return read_result(run)


def _begin(run: Run) -> None:
    """Create the folder and read the outcomes of earlier calls. The stored recipe is replaced when a stage starts."""
    run.folder.mkdir(parents=True, exist_ok=True)
    run.completed.update(read_outcomes(run.folder))
    name, seed = run.recipe().name, run.seed
    run.log.event("run", recipe=name, hash=recipe_hash(run.recipe), seed=seed, version=__version__)


def run_stage(run: Run, stage: Stage, work: Callable[[Run], msgspec.Struct] | None = None) -> None:
    """Run one stage. Earlier outcomes of this and of later stages are discarded first, even if it fails.

    work: replaces the stage's own function; for a caller that has the result and only has to write the same files.
    """
    key = stage.key(run)
    stage.check(run)
    earlier = STAGE_NAMES[: STAGE_NAMES.index(stage.name)]
    run.record({name: done for name, done in run.completed.items() if name in earlier})
    write_json(run.files.recipe, run.recipe.to_json())
    run.log.event("stage", stage=stage.name, key=key)
    run.log.info(f"{stage.name} …")
    started = time.perf_counter()
    outcome = msgspec.to_builtins((work or stage.work)(run))
    seconds = round(time.perf_counter() - started, 2)
    run.record({**run.completed, stage.name: {"key": key, "seconds": seconds, **outcome}})
    run.log.event("stage_done", stage=stage.name, seconds=seconds)


def run_recipe(
    recipe_or_folder: str,
    recipe: Spec[Recipe],
    *,
    text: Sequence[Path],
    shards: Path | None,
    out: Path | None,
    seed: int,
    processes: int,
    device: str,
    from_stage: str | None,
    resume: bool,
) -> RunResult:
    """`bitgolf run`: determine the run's folder, then execute.

    recipe_or_folder: the command's argument. If it is the folder of an earlier run, that folder is used, unless `out`
    is given. Raises `UsageError` if the device is not available or a path does not exist.
    """
    select_device(processes - 1, device)  # raises before anything is written if the device is not available
    _check_sources(text, shards)
    earlier = Path(recipe_or_folder) if Path(recipe_or_folder).is_dir() else None
    name, digest = recipe().name, recipe_hash(recipe)
    folder = out or earlier or Path("runs") / f"{name}-{digest[:8]}-s{seed}{_folder_suffix(text, shards)}"
    check_format(folder)
    inputs = _inputs(earlier, text, shards, seed)
    write_json(RunFiles(folder).inputs, msgspec.to_builtins(inputs))
    log = RunLog(folder)
    try:
        log.info(f"{name} ({digest}), seed {inputs.seed}, in {folder}")
        source = Path(inputs.shards) if inputs.shards else None
        run = Run(recipe, folder, log, inputs.seed, inputs.text, source, processes, device, resume)
        return execute(run, from_stage=from_stage)
    finally:
        log.close()


def _check_sources(text: Sequence[Path], shards: Path | None) -> None:
    if text and shards:
        raise UsageError("--text and --shards were both given, but exclude each other", hint="leave one of them out")
    for path in text:
        if not path.exists():
            raise UsageError("there is no such file or folder", where=f"--text {path}")


def _inputs(earlier: Path | None, text: Sequence[Path], shards: Path | None, seed: int) -> RunInputs:
    """The inputs of this call, or those of the earlier run if no text and no shards were given."""
    if earlier and not (text or shards) and RunFiles(earlier).inputs.exists():
        return read_inputs(earlier)
    given = tuple(str(path.resolve()) for path in text)
    return RunInputs(seed=seed, text=given, shards=str(shards.resolve()) if shards else None)


def _folder_suffix(text: Sequence[Path], shards: Path | None) -> str:
    """A suffix that keeps the folders of one recipe on different texts apart; empty without --text and --shards."""
    named = [str(p.resolve()) for p in (*text, *([shards] if shards else []))]
    return f"-{json_digest(named)[:6]}" if named else ""
