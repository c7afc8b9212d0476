"""Executing a run: stages whose key is unchanged are reused, all others run.

The key of a stage is a hash of its input files and of its settings in the recipe; see `stages`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from bitgolf import __version__
from bitgolf.config.recipe_file import read_recipe, write_recipe
from bitgolf.config.spec import Spec
from bitgolf.data.shard_folder import check_tokenizer_option, open_shard_folder
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.files import json_digest, write_checked_json
from bitgolf.pack.settings import check_coders
from bitgolf.pipeline.outputs import FILES_KEY, output_digests, remove_changed_outputs
from bitgolf.pipeline.reporting import read_result
from bitgolf.pipeline.result import RunResult
from bitgolf.pipeline.stages import STAGE_NAMES, STAGES, Stage
from bitgolf.pipeline.state import Run, RunFiles, RunInputs, check_format, read_inputs, read_outcomes, run_of_inputs
from bitgolf.quantize.calibration.calibrate import check_calibration
from bitgolf.recipes.identity import recipe_hash
from bitgolf.recipes.recipe import Recipe
from bitgolf.recipes.time_limit import calibration_reserve, training_time_limit
from bitgolf.report.log import RunLog
from bitgolf.runtime.device import select_device
from bitgolf.text.files import absolute, check_paths, copy_stream, is_stream
from bitgolf.text.read_report import DEFAULT_OPTIONS, ReadOptions


class GivenData(NamedTuple):
    """The options of `run` that name its data: text, or a folder of shards and their tokenizer.

    tokenizer: None for the one in the folder. reading: how records of the text are read.
    """

    text: Sequence[Path]
    shards: Path | None
    tokenizer: Path | None
    reading: ReadOptions

    def check(self) -> None:
        """Raise `UsageError` if options exclude each other or have no effect, or a path does not exist."""
        reading = self.reading
        if self.text and self.shards:
            message = "--text and --shards were both given, but exclude each other"
            raise UsageError(message, hint="leave one of them out")
        if reading != DEFAULT_OPTIONS and not self.text:
            message = "options of reading text have no effect without --text"
            raise UsageError(message, where=" ".join(reading.words()), hint="add --text PATH, or leave them out")
        check_tokenizer_option(self.tokenizer, self.shards)
        if self.shards:
            open_shard_folder(self.shards, self.tokenizer).check_files()
        try:
            check_paths(self.text)
        except UsageError as error:
            raise UsageError(error.message, where=f"--text {error.where}", hint=error.hint) from error

    def folder_suffix(self) -> str:
        """A suffix that keeps the folders of one recipe on different data apart; empty if no data is named."""
        named = ["-" if is_stream(p) else absolute(p) for p in self.text]
        named += [str(path.resolve()) for path in (self.shards, self.tokenizer) if path]
        named += self.reading.words()
        return f"-{json_digest(named)[:6]}" if named else ""


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
        changed = ""
        if i < forced and stage.unchanged(run):
            if not (changed := stage.damage(run)):
                run.log.info(f"{stage.name}: unchanged, reused")
                continue
            run.log.info(f"{stage.name}: {changed}; the stage runs again")
        if from_stage and i < forced:
            why = f"must run again: {changed}" if changed else "has changed inputs and must run first"
            cause = f"--from {from_stage}: the earlier stage {stage.name} {why}"
            raise UsageError(cause, where=str(run.folder), hint=f"use --from {stage.name}")
        run_stage(run, stage)
    _restore_recipe(run)
    return read_result(run)


def _restore_recipe(run: Run) -> None:
    """Write `recipe.json` again if it is damaged. It is otherwise written when a stage starts."""
    try:
        read_recipe(run.files.recipe)
    except BitgolfError:
        write_recipe(run.files.recipe, run.recipe)


def _begin(run: Run) -> None:
    """Create the folder and read the outcomes of earlier calls. The stored recipe is replaced when a stage starts."""
    run.folder.mkdir(parents=True, exist_ok=True)
    run.completed.update(read_outcomes(run.folder, run.log))
    name, seed = run.recipe().name, run.seed
    run.log.event("run", recipe=name, hash=recipe_hash(run.recipe), seed=seed, version=__version__)


def run_stage(run: Run, stage: Stage, work: Callable[[Run], msgspec.Struct] | None = None) -> None:
    """Run one stage. Earlier outcomes of this and of later stages are discarded first, even if it fails.

    Outcomes of later stages are kept if their keys depend on the outputs of this one (`Stage.bound`).
    work: replaces the stage's own function; for a caller that has the result and only has to write the same files.
    """
    key = stage.key(run)
    stage.check(run)
    earlier = STAGE_NAMES[: STAGE_NAMES.index(stage.name)]
    remove_changed_outputs(run, stage.name)
    kept = set(STAGE_NAMES) - {stage.name} if stage.bound else earlier
    run.record({name: done for name, done in run.completed.items() if name in kept})
    write_recipe(run.files.recipe, run.recipe)
    run.log.event("stage", stage=stage.name, key=key)
    run.log.info(f"{stage.name} …")
    started = time.perf_counter()
    outcome = msgspec.to_builtins((work or stage.work)(run))
    seconds = round(time.perf_counter() - started, 2)
    done = {"key": key, "seconds": seconds, **outcome, FILES_KEY: output_digests(run, stage.outputs(run))}
    recorded = {**run.completed, stage.name: done}
    run.record({name: recorded[name] for name in STAGE_NAMES if name in recorded})
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
    reading: ReadOptions = DEFAULT_OPTIONS,
    tokenizer: Path | None = None,
) -> RunResult:
    """`bitgolf run`: determine the run's folder, then execute.

    recipe_or_folder: the command's argument. If it is the folder of an earlier run, that folder is used, unless `out`
    is given. Raises `UsageError` if the device is not available or a path does not exist.
    """
    select_device(processes - 1, device)  # raises before anything is written if the device is not available
    given = GivenData(text, shards, tokenizer, reading)
    given.check()
    earlier = Path(recipe_or_folder) if Path(recipe_or_folder).is_dir() else None
    name, digest = recipe().name, recipe_hash(recipe)
    folder = out or earlier or Path("runs") / f"{name}-{digest[:8]}-s{seed}{given.folder_suffix()}"
    _check_name(folder)
    check_format(folder)
    inputs = _inputs(earlier, folder, given, seed)
    write_checked_json(RunFiles(folder).inputs, msgspec.to_builtins(inputs))
    log = RunLog(folder)
    try:
        log.info(f"{name} ({digest}), seed {inputs.seed}, in {folder}")
        run = replace(run_of_inputs(recipe, folder, log, inputs), devices=processes, device_type=device, resume=resume)
        return execute(run, from_stage=from_stage)
    finally:
        log.close()


def _check_name(folder: Path) -> None:
    """Raise `UsageError` if the name of a run's folder is not UTF-8, which safetensors cannot open."""
    try:
        str(folder.resolve()).encode()
    except UnicodeEncodeError as error:
        message = f"the folder of a run must have a name in UTF-8, got {os.fsencode(folder)!r}"
        raise UsageError(message, where="--out", hint="choose another --out") from error


def _inputs(earlier: Path | None, folder: Path, given: GivenData, seed: int) -> RunInputs:
    """The inputs of this call, or those of the earlier run if no text and no shards were given.

    Standard input and pipes are copied to the folder `text` of the run, so that the run can be repeated.
    """
    if earlier and not (given.text or given.shards):
        files = RunFiles(earlier)
        if files.inputs.exists() or files.stages.exists():
            return read_inputs(earlier)
    return RunInputs(
        seed=seed,
        text=tuple(str(copy_stream(p, folder / "text")) if is_stream(p) else absolute(p) for p in given.text),
        reading=given.reading,
        shards=str(given.shards.resolve()) if given.shards else None,
        tokenizer=str(given.tokenizer.resolve()) if given.tokenizer else None,
    )
