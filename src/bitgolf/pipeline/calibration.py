"""The stage `calibrate`: statistics of the matrices that codecs ask for, measured in one process or in N under torchrun.

Its clock counts measuring alone: starting processes, imports, loading and writing are not on it, as in training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from safetensors.torch import load_file

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec
from bitgolf.data.manifest import load_manifest
from bitgolf.files import file_digest, json_digest
from bitgolf.model.build import build_on_meta
from bitgolf.model.lm import LM
from bitgolf.model.parameters import load_weights
from bitgolf.pipeline.state import Run, RunFiles
from bitgolf.pipeline.training_result import TrainingTime
from bitgolf.quantize.calibration.calibrate import count_hessians
from bitgolf.quantize.calibration.sources import CalibrationContext
from bitgolf.quantize.calibration.stats_file import calibration_metadata, load_calibration, save_calibration
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from bitgolf.runtime import process_group
from bitgolf.runtime.device import Device, select_device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.launch import run_worker
from bitgolf.runtime.progress import CalibrationReserve


class TrainingClock(msgspec.Struct, frozen=True):
    """Seconds of the training clock, calibration included. limit 0: none."""

    train: float
    calibrate: float
    total: float
    limit: float


class CalibrationSummary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What calibration observed. source: the part of the recipe that gave the tokens, or `none`; hessians: shared ones
    counted once; planned_batches: what the recipe asks for, of which a limit of time may leave some out."""

    source: str
    tokens: int = 0
    processes: int = 0
    batches_per_process: list[int] = []
    planned_batches: int = 0
    matrices: int = 0
    hessians: int = 0


class CalibrationOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the stage leaves: what it observed, and the seconds that it and training took."""

    calibration: CalibrationSummary
    training_clock: TrainingClock


class CalibrationJob(msgspec.Struct, frozen=True, kw_only=True):
    """The averaged weights of a recipe, and shards that hold the text.

    inputs_digest: is stored beside the statistics, as what they were made of.
    max_batches: 0 is all. max_seconds: no round is begun that would end later; None is no limit.
    device: the kind, as `device.select_device` takes it.
    """

    recipe: Spec[Recipe]
    data: Path
    folder: Path
    inputs_digest: str
    max_batches: int = 0
    max_seconds: float | None = None
    device: str = "auto"


class CalibrationTiming(msgspec.Struct, frozen=True):
    """What is not in the file of statistics: how long measuring took."""

    seconds: float


def calibration_inputs(run: Run) -> list[Any]:
    """What decides the statistics; nothing where the recipe asks for none."""
    recipe = run.recipe()
    if recipe.calibrate is None:
        return []
    files = [file_digest(run.files.averaged), file_digest(run.data_folder / "manifest.json")]
    return [*files, run.settings("calibrate"), recipe.train().length]


def calibrate(run: Run) -> CalibrationOutcome:
    """Weights -> what the codecs must know of their matrices, inside the training clock. On as many processes as training."""
    source = run.recipe().calibrate
    if source is None:
        run.log.info("no codec asks for calibration")
        return CalibrationOutcome(
            calibration=CalibrationSummary(source="none"), training_clock=_training_clock(run, 0.0)
        )
    key = json_digest(calibration_inputs(run))
    bounds = _limits(run, calibration_metadata(run.files.calibration), key)
    seconds = _measure(run, key, bounds)
    stats, about = load_calibration(run.files.calibration), calibration_metadata(run.files.calibration)
    summary = CalibrationSummary(
        source=type(source().source).__name__,
        tokens=max(s.tokens for s in stats.values()),
        processes=run.devices,
        batches_per_process=about["batches"],
        planned_batches=source().source.batches,
        matrices=len(stats),
        hessians=count_hessians(stats),
    )
    run.log.event("calibration", **msgspec.structs.asdict(summary), seconds=round(seconds, 2))
    run.log.info(
        f"calibrated on {summary.tokens:,} tokens ({summary.source}) in {seconds:.1f} s"
        f" by {run.devices} process{'es' * (run.devices > 1)}: {len(stats)} matrices, {summary.hessians} Hessians"
    )
    _warn_if_incomplete(run, summary, repeated=bounds.max_batches > 0)
    return CalibrationOutcome(calibration=summary, training_clock=_training_clock(run, seconds))


def _measure(run: Run, key: str, bounds: CalibrationLimits) -> float:
    """Leave the statistics in the folder; returns the seconds that it took."""
    job = CalibrationJob(
        recipe=run.recipe,
        data=run.data_folder,
        folder=run.folder,
        inputs_digest=key,
        max_batches=bounds.max_batches,
        max_seconds=bounds.max_seconds,
        device=run.device_type,
    )
    if run.devices == 1:
        return calibrate_run(job, run.log).seconds
    timing = run_worker(
        calibrate_worker,
        job,
        task="calibration",
        where=run.folder,
        processes=run.devices,
        resume_option="--from calibrate",
    )
    return timing.seconds


class CalibrationLimits(NamedTuple):
    """How far calibration goes: so many batches (0: all), and no round that would end after so many seconds."""

    max_batches: int
    max_seconds: float | None


def _limits(run: Run, about: Mapping[str, Any], key: str) -> CalibrationLimits:
    """Done again with the same inputs, calibration observes the batches that it had then, so that the file is the same.
    Else it ends with the training clock, where its reserve was measured."""
    if about.get("inputs") == key:
        return CalibrationLimits(sum(about["batches"]), None)
    trained = run.outcome("train", TrainingTime)
    if trained.calibration_reserve is None:
        return CalibrationLimits(0, None)
    # The time of training's last step beyond its limit is not taken from calibration.
    ended = min(trained.training_seconds, trained.time_limit_seconds)
    return CalibrationLimits(0, run.recipe().train().seconds - ended - trained.calibration_reserve.fixed_seconds)


def _warn_if_incomplete(run: Run, found: CalibrationSummary, *, repeated: bool) -> None:
    batches, planned = sum(found.batches_per_process), found.planned_batches
    if batches < planned and repeated:
        run.log.info(f"calibrated on {batches:,} of {planned:,} batches, as the first time, when the clock ended it")
    elif batches < planned:
        limit = run.recipe().train().seconds
        message = f"calibration ended at the limit of {limit:g} s, with {batches:,} of {planned:,} batches"
        words = {"batches": batches, "planned_batches": planned, "time_limit_seconds": limit}
        run.log.event("warning", message=message, **words)


def _training_clock(run: Run, seconds: float) -> TrainingClock:
    """Over the limit is allowed, and a warning."""
    trained, limit = run.outcome("train", TrainingTime).training_seconds, run.recipe().train().seconds
    clock = TrainingClock(*(round(value, 2) for value in (trained, seconds, trained + seconds, limit)))
    if seconds and 0 < limit < clock.total:
        message = (
            f"training took {clock.train} s and calibration {clock.calibrate} s: {clock.total} s, over the limit of"
            f" {clock.limit} s (see calibrate.reserve)"
        )
        run.log.event("warning", message=message, **msgspec.structs.asdict(clock))
    return clock


def calibrate_worker(job: CalibrationJob) -> CalibrationTiming:
    """One of several processes."""
    return calibrate_run(job, RunLog(quiet=process_group.rank_from_environment() > 0))


def calibrate_run(job: CalibrationJob, log: RunLog) -> CalibrationTiming:
    """Calibrate in this process's share of the world.

    Leaves `calibration.safetensors` in the job's folder, which holds the digest of the inputs, and how many batches each
    process observed.
    """

    def progress(done: int, of: int) -> None:
        log.progress(f"calibrate: {done:,} of {of:,} batches")

    recipe, files = job.recipe(), RunFiles(job.folder)
    assert recipe.calibrate is not None
    with process_group.joined(job.device) as distributed:
        manifest = load_manifest(job.data)
        model = build_on_meta(recipe.model, manifest.vocab, manifest.bos)
        load_weights(model, load_file(files.averaged))
        subject = _context(recipe, job.data, model, select_device(distributed.local_rank, job.device))
        seconds = math.inf if job.max_seconds is None else job.max_seconds
        found = recipe.calibrate().collect(subject, distributed, progress, batches=job.max_batches, seconds=seconds)
        if distributed.rank == 0:
            shares = [len(range(rank, found.batches, distributed.world_size)) for rank in range(distributed.world_size)]
            save_calibration(files.calibration, found.stats, {"inputs": job.inputs_digest, "batches": shares})
    return CalibrationTiming(found.seconds)


def measure_calibration_reserve(
    recipe: Spec[Recipe], data: Path, distributed: DistributedContext, device: Device
) -> CalibrationReserve:
    """How long calibration will take in this world, measured as the stage does it, with the weights of a model that is
    not trained. For before training: it draws random numbers."""
    manifest, settings = load_manifest(data), recipe()
    assert settings.calibrate is not None
    model = settings.model(BuildContext(vocab=manifest.vocab, bos=manifest.bos))
    reserve = settings.calibrate().estimate_reserve(_context(settings, data, model, device), distributed)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # training sizes itself by the memory that is free
    return reserve


def _context(recipe: Recipe, data: Path, model: LM, device: Device) -> CalibrationContext:
    model = model.to(device.torch_device).eval()
    return CalibrationContext(model, data, recipe.train().length, model.bos, device.autocast)
