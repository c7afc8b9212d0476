"""Executing a run: stages whose key is unchanged are reused, all others run.

The key of a stage is a hash of its input files and of its settings in the recipe; see `stages`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from bitgolf import __version__
from bitgolf.config.recipe_file import read_recipe
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, Stopped, UsageError
from bitgolf.pack.settings import check_coders
from bitgolf.pipeline.given_inputs import GivenInputs, check_same_inputs, discarded_copies, first_inputs
from bitgolf.pipeline.host_files import check_first_host
from bitgolf.pipeline.latest_run import RUNS_FOLDER
from bitgolf.pipeline.outputs import FILES_KEY, output_digests, remove_changed_outputs
from bitgolf.pipeline.preview import preview_training
from bitgolf.pipeline.reporting import read_result
from bitgolf.pipeline.result import RunResult
from bitgolf.pipeline.stage_reuse import take_over_stages
from bitgolf.pipeline.stages import STAGE_NAMES, STAGES, Stage
from bitgolf.pipeline.state import (
    Run,
    check_format,
    read_inputs,
    read_outcomes,
    run_of_inputs,
    stored_inputs,
)
from bitgolf.pipeline.stopped import read_stop, write_stop
from bitgolf.pipeline.tracking import tracked
from bitgolf.quantize.calibration.calibrate import check_calibration
from bitgolf.recipes.check import check_recipe
from bitgolf.recipes.identity import recipe_hash
from bitgolf.recipes.recipe import Recipe
from bitgolf.recipes.time_limit import calibration_reserve, training_time_limit
from bitgolf.report.failures import describe
from bitgolf.report.log import RunLog
from bitgolf.report.observers import Observer
from bitgolf.report.progress import Progress
from bitgolf.runtime.device import select_device
from bitgolf.runtime.folder_lock import folder_lock
from bitgolf.runtime.hosts.group import current_group, last_device


def execute(
    run: Run, *, from_stage: str | None = None, strict_cap: bool = False, reuse: Sequence[Path] = ()
) -> RunResult:
    """Run the stages whose inputs changed, and all from `from_stage` on; returns the result of the run.

    An observer can stop the run between two steps of training, and before a stage that runs.

    Nothing in the folder changes before the first stage that runs has passed its check. strict_cap: do not train if the
    forecast of the artifact is over the cap. reuse: folders of other runs, from which stages with equal keys are taken
    over, unless `from_stage` is given. Raises `UsageError` if a stage before `from_stage` has changed inputs,
    `RecipeError` if the recipe cannot be run, and `Stopped` if an observer of the log asked for that; `stopped.json` has
    its reason, if a stage had started.
    """
    try:
        return _execute(run, from_stage, strict_cap=strict_cap, reuse=reuse)
    except Stopped as stopped:
        run.log.event("stopped", when=stopped.when, reason=stopped.reason)
        if run.log.is_writing:
            write_stop(run.folder, stopped)
        raise
    except BaseException as error:
        with suppress(OSError):  # the disk may be full
            run.log.event("failed", message=describe(error, write=False).message)
        raise


def _execute(run: Run, from_stage: str | None, *, strict_cap: bool, reuse: Sequence[Path]) -> RunResult:
    recipe = run.recipe()
    check_calibration(recipe.quantize, recipe.calibrate, run.devices)
    training_time_limit(run.recipe, calibration_reserve(run.recipe) or 0.0)
    check_coders(recipe.pack)
    run = replace(run, overwrite=from_stage in ("prepare", "train"), completed=read_outcomes(run.folder, run.log))
    forced = STAGE_NAMES.index(from_stage) if from_stage else len(STAGES)
    run.log.info(f"{recipe.name} ({recipe_hash(run.recipe)}), seed {run.seed}, in {run.folder}")
    run.log.event("run", recipe=recipe.name, hash=recipe_hash(run.recipe), seed=run.seed, version=__version__)
    if stopped := read_stop(run.folder):
        run.log.info(f"this run was {stopped}")
    if from_stage is None:
        take_over_stages(run, reuse)
    _preview(run, forced, strict_cap=strict_cap)
    for i, stage in enumerate(STAGES):
        changed = ""
        if i < forced and stage.unchanged(run):
            if not (changed := stage.damage(run)):
                run.log.event("reused", stage=stage.name)
                run.log.info(f"{stage.name}: unchanged, reused")
                continue
            run.log.info(f"{stage.name}: {changed}; the stage runs again")
        _check_order(run, stage, from_stage, changed)
        if reason := run.log.stop.reason:
            hint = "the same command continues"
            raise Stopped(f"before the stage {stage.name}", reason, where=str(run.folder), hint=hint)
        run_stage(run, stage)
    _restore_inputs(run)
    result = read_result(run)
    run.log.event("result", steps=result.steps, bpb=result.bpb, bytes=_sizes(result), fits=result.fits)
    return result


def _sizes(result: RunResult) -> dict[str, int | None]:
    """The sizes of the artifact in bytes, and the cap."""
    sizes = result.bytes
    return {name: getattr(sizes, name) for name in ("total", "cap", "model", "code", "tokenizer", "self_contained")}


def _restore_inputs(run: Run) -> None:
    """Write `recipe.json` and `inputs.json` again if they are damaged. They are otherwise written when a stage starts."""
    try:
        read_recipe(run.files.recipe)
        read_inputs(run.folder)
    except BitgolfError:
        run.start_writing(dict(run.completed))


def _preview(run: Run, forced: int, *, strict_cap: bool) -> None:
    """Log cautions and forecasts if the run will be trained. forced: index of the first stage that is repeated."""
    prepare, train = STAGES[:2]
    prepared = forced > 0 and prepare.unchanged(run) and not prepare.damage(run)
    if prepared and forced > 1 and train.unchanged(run):
        return
    _check_order(run, train if prepared else prepare, STAGE_NAMES[forced] if forced < len(STAGES) else None)
    preview_training(run, prepared=prepared, strict_cap=strict_cap)


def _check_order(run: Run, stage: Stage, from_stage: str | None, changed: str = "") -> None:
    """Raise `UsageError` if a stage that must run precedes the one that the user wants to begin with.

    changed: what is wrong with the files that the stage wrote, "" if nothing is.
    """
    if from_stage and STAGE_NAMES.index(stage.name) < STAGE_NAMES.index(from_stage):
        why = f"must run again: {changed}" if changed else "has changed inputs and must run first"
        cause = f"--from {from_stage}: the earlier stage {stage.name} {why}"
        raise UsageError(cause, where=str(run.folder), hint=f"use --from {stage.name}")


def run_stage(run: Run, stage: Stage) -> None:
    """Run one stage. Earlier outcomes of this and of later stages are discarded when its check has passed.

    Outcomes of later stages are kept if the stage `prepare` makes the same data again, for example after the text was
    copied.
    """
    started = time.perf_counter()
    run.log.info(f"{stage.name} …")
    run.log.progress(Progress(stage.name))
    key = stage.key(run)
    stage.check(run)
    at = STAGE_NAMES.index(stage.name)
    kept = STAGE_NAMES[:at] + (STAGE_NAMES[at + 1 :] if run.pending.same_data else ())
    remove_changed_outputs(run, stage.name)
    run.start_writing({name: done for name, done in run.completed.items() if name in kept})
    run.log.event("stage", stage=stage.name, key=key)
    outcome = msgspec.to_builtins(stage.work(run))
    seconds = round(time.perf_counter() - started, 2)
    done = {"key": key, "seconds": seconds, **outcome, FILES_KEY: output_digests(run, stage.outputs(run))}
    completed = {**run.completed, stage.name: done}
    run.record({name: completed[name] for name in STAGE_NAMES if name in completed})
    run.log.event("stage_done", stage=stage.name, seconds=seconds)
    run.log.end_progress()


class ExecutionOptions(NamedTuple):
    """How a run is executed.

    processes: that train, calibrate and score. device: their kind, as in `select_device`. from_stage: repeat this stage
    and all later ones. resume: continue an unfinished training. strict_cap, reuse: as in `execute`. train_until: fraction
    of the training after which the run is left unfinished, with `Stopped`; 1 for none. track: trackers, as in
    `make_tracker`.
    """

    processes: int = 1
    device: str = "auto"
    from_stage: str | None = None
    resume: bool = False
    strict_cap: bool = False
    reuse: tuple[Path, ...] = ()
    train_until: float = 1.0
    track: tuple[str, ...] = ()


DEFAULT_EXECUTION = ExecutionOptions()


def run_recipe(
    recipe: Spec[Recipe],
    given: GivenInputs,
    options: ExecutionOptions = DEFAULT_EXECUTION,
    *,
    argument: Path | None = None,
    out: Path | None = None,
    observers: Sequence[Observer] = (),
) -> RunResult:
    """`bitgolf run`: determine the folder of a run and its inputs, then execute.

    argument: the folder of an earlier run, None for a recipe without one. It is used unless `out` is given, and options
    that are not given are those of that run. given.seed: None for that of the earlier run, otherwise 0.
    observers: receive the events of the run, and may stop it.
    Raises `UsageError` if the device is not available, a path does not exist, or the folder has a run of other inputs,
    and `BitgolfError` if another process writes to the folder. The folder is left as it was then.
    """
    _check_devices(options)
    earlier = stored_inputs(argument) if argument else None
    given.check(earlier)
    check_recipe(recipe)
    folder = out or argument or RUNS_FOLDER / _default_name(recipe, given)
    _check_folder(folder)
    check_first_host(folder)
    log = RunLog(folder, delayed=True, observers=observers)
    try:
        with folder_lock(folder), discarded_copies(folder):
            inputs = given.inputs(earlier or first_inputs(recipe), folder)
            check_same_inputs(folder, inputs, replaced=options.from_stage)
            run = run_of_inputs(recipe, folder, log, inputs)
            run = replace(run, devices=options.processes, device_type=options.device, resume=options.resume)
            run = replace(run, train_until=options.train_until)
            with tracked(recipe, folder, run.seed, log, options.track):
                return execute(run, from_stage=options.from_stage, strict_cap=options.strict_cap, reuse=options.reuse)
    finally:
        log.close()


def _check_devices(options: ExecutionOptions) -> None:
    """Raise `UsageError` if a device of this host is not available, or another host has other kinds of devices."""
    device = select_device(last_device(options.processes), options.device)
    if (group := current_group()) and options.device == "auto":
        group.check_devices(device.torch_device.type)


def _default_name(recipe: Spec[Recipe], given: GivenInputs) -> str:
    """Name of the folder of a run that was given none."""
    return f"{recipe().name}-{recipe_hash(recipe)[:8]}-s{given.seed or 0}{given.folder_suffix()}"


def _check_folder(folder: Path) -> None:
    """Raise `UsageError` if the name of a run's folder is not UTF-8, which safetensors cannot open.

    Raises `FormatVersionError` if the folder holds a run of another format.
    """
    try:
        str(folder.resolve()).encode()
    except UnicodeEncodeError as error:
        message = f"the folder of a run must have a name in UTF-8, got {os.fsencode(folder)!r}"
        raise UsageError(message, where="--out", hint="choose another --out") from error
    check_format(folder)
