"""The stage `calibrate`: statistics of matrices whose codecs need calibration, in one process or in N under torchrun.

As in training, the clock counts the measurement alone, without starting processes, imports, loading and writing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec
from bitgolf.data.manifest import data_digest, load_manifest
from bitgolf.files import file_digest, json_digest
from bitgolf.model.build import build_on_meta
from bitgolf.model.lm import LM
from bitgolf.model.parameters import load_weights, read_weights
from bitgolf.pipeline.host_files import host_inputs
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.pipeline.state import Run
from bitgolf.pipeline.training_result import TrainingTime
from bitgolf.quantize.calibration.calibrate import count_hessians
from bitgolf.quantize.calibration.sources import CalibrationContext
from bitgolf.quantize.calibration.stats_file import calibration_metadata, load_calibration, save_calibration
from bitgolf.recipes.recipe import Recipe
from bitgolf.recipes.time_limit import tuning_reserve
from bitgolf.report.log import RunLog
from bitgolf.report.progress import WorkProgress
from bitgolf.runtime import process_group
from bitgolf.runtime.device import Device, select_device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.launch import run_worker
from bitgolf.runtime.progress import CalibrationReserve


class TrainingClock(msgspec.Struct, frozen=True):
    """Seconds of training, of calibration and of both, and their limit (0: no limit)."""

    train: float
    calibrate: float
    total: float
    limit: float


class CalibrationSummary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What calibration was done on.

    source: class of the recipe's calibration source, or `none`. hessians: number of different Hessians (matrices with
    the same input share one). planned_batches: batches in the recipe; a time limit can reduce them.
    """

    source: str
    tokens: int = 0
    processes: int = 0
    batches_per_process: list[int] = []
    planned_batches: int = 0
    matrices: int = 0
    hessians: int = 0


class CalibrationOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of the stage `calibrate`."""

    calibration: CalibrationSummary
    training_clock: TrainingClock


class CalibrationJob(msgspec.Struct, frozen=True, kw_only=True):
    """Calibration of the averaged weights in a run's folder, on the shards in `data`.

    inputs_digest: digest of the inputs, stored with the statistics. max_batches: 0 means all of the recipe's.
    max_seconds: no round of batches starts if it would end later than this; None means no limit. device: kind of
    device, as in `select_device`.
    """

    recipe: Spec[Recipe]
    data: Path
    folder: Path
    inputs_digest: str
    max_batches: int = 0
    max_seconds: float | None = None
    device: str = "auto"


class CalibrationTiming(msgspec.Struct, frozen=True):
    """Seconds that the measurement took."""

    seconds: float


def calibration_inputs(run: Run) -> list[Any]:
    """Inputs of the statistics: weights, shards and settings. Empty if the recipe has no calibration."""
    recipe = run.recipe()
    if recipe.calibrate is None:
        return []
    files = [file_digest(run.files.averaged), data_digest(run.data_folder)]
    return [*files, run.settings("calibrate"), recipe.train().length]


def calibrate(run: Run) -> CalibrationOutcome:
    """Measure the statistics that codecs need, within the training clock and on as many processes as training.

    Writes `calibration.safetensors`, unless the recipe has no calibration.
    """
    source = run.recipe().calibrate
    if source is None:
        run.log.info("no codec needs calibration")
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
    """Write the statistics to the folder; returns the seconds that the measurement took."""
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
        inputs=lambda: host_inputs(run, run.files.averaged),
    )
    return timing.seconds


class CalibrationLimits(NamedTuple):
    """Limits of calibration: batches (0: all), and seconds by which the last round must end (None: no limit)."""

    max_batches: int
    max_seconds: float | None


def _limits(run: Run, about: Mapping[str, Any], key: str) -> CalibrationLimits:
    """Limits of this calibration.

    If the stored statistics have the same inputs, the number of batches is theirs, so that the file comes out the same.
    Otherwise, if the reserve was measured, calibration ends with the training clock.
    """
    if about.get("inputs") == key:
        return CalibrationLimits(sum(about["batches"]), None)
    limit = run.recipe().train().seconds - tuning_reserve(run.recipe)
    return CalibrationLimits(0, remaining_seconds(limit, run.outcome("train", TrainingTime)))


def remaining_seconds(limit: float, trained: TrainingTime) -> float | None:
    """Seconds of the training clock that are left for calibration; None if its reserve was not measured.

    limit: of training and calibration. Training may exceed its own limit by a part of its last step; this time is not
    taken from calibration.
    """
    if trained.calibration_reserve is None:
        return None
    ended = min(trained.training_seconds, trained.time_limit_seconds)
    return limit - ended - trained.calibration_reserve.fixed_seconds


def _warn_if_incomplete(run: Run, found: CalibrationSummary, *, repeated: bool) -> None:
    batches, planned = sum(found.batches_per_process), found.planned_batches
    if batches < planned and repeated:
        words = "the number of the first calibration, which the time limit ended"
        run.log.info(f"calibrated on {batches:,} of {planned:,} batches, {words}")
    elif batches < planned:
        limit = run.recipe().train().seconds
        message = f"calibration ended at the time limit of {limit:g} s, with {batches:,} of {planned:,} batches"
        words = {"batches": batches, "planned_batches": planned, "time_limit_seconds": limit}
        run.log.event("warning", message=message, **words)


def _training_clock(run: Run, seconds: float) -> TrainingClock:
    """Seconds of training and calibration. Logs a warning if they exceed the limit, which is allowed."""
    trained, limit = run.outcome("train", TrainingTime).training_seconds, run.recipe().train().seconds
    clock = TrainingClock(*(round(value, 2) for value in (trained, seconds, trained + seconds, limit)))
    if seconds and 0 < limit < clock.total:
        message = (
            f"training took {clock.train} s and calibration {clock.calibrate} s, together {clock.total} s,"
            f" over the limit of {clock.limit} s; a larger calibrate.reserve ends training earlier"
        )
        run.log.event("warning", message=message, **msgspec.structs.asdict(clock))
    return clock


def calibrate_worker(job: CalibrationJob) -> CalibrationTiming:
    """Run `calibrate_run` as one of several processes; only rank 0 prints."""
    return calibrate_run(job, RunLog(quiet=process_group.rank_from_environment() > 0))


def calibrate_run(job: CalibrationJob, log: RunLog) -> CalibrationTiming:
    """Calibrate on this rank's share of the batches.

    Rank 0 writes `calibration.safetensors` to the job's folder, with the digest of the inputs and the number of batches
    of each rank.
    """
    recipe, files = job.recipe(), RunFiles(job.folder)
    assert recipe.calibrate is not None
    with process_group.joined(job.device) as distributed:
        manifest = load_manifest(job.data)
        model = build_on_meta(recipe.model, manifest.vocab, manifest.bos)
        load_weights(model, read_weights(files.averaged, stage="average"))
        subject = _context(recipe, job.data, model, select_device(distributed.local_rank, job.device))
        progress = WorkProgress(log.progress, "calibrate", "batches").update
        seconds = math.inf if job.max_seconds is None else job.max_seconds
        found = recipe.calibrate().collect(subject, distributed, progress, batches=job.max_batches, seconds=seconds)
        if distributed.rank == 0:
            shares = [len(range(rank, found.batches, distributed.world_size)) for rank in range(distributed.world_size)]
            save_calibration(files.calibration, found.stats, {"inputs": job.inputs_digest, "batches": shares})
    return CalibrationTiming(found.seconds)


def measure_calibration_reserve(
    recipe: Spec[Recipe], data: Path, distributed: DistributedContext, device: Device
) -> CalibrationReserve:
    """Measure how long calibration will take on these ranks, with an untrained model of the recipe.

    Call it before training starts: it draws random numbers.
    """
    manifest, settings = load_manifest(data), recipe()
    assert settings.calibrate is not None
    model = settings.model(BuildContext(vocab=manifest.vocab, bos=manifest.bos))
    reserve = settings.calibrate().estimate_reserve(_context(settings, data, model, device), distributed)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # training derives its micro-batch from the free memory
    return reserve


def _context(recipe: Recipe, data: Path, model: LM, device: Device) -> CalibrationContext:
    model = model.to(device.torch_device).eval()
    return CalibrationContext(model, data, recipe.train().length, model.bos, device.autocast)
