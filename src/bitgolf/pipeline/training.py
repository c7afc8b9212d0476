"""The stage `train`: shards to checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec
from bitgolf.data.batches import BatchLoader
from bitgolf.data.manifest import data_digest, load_manifest, open_split
from bitgolf.errors import Stopped
from bitgolf.files import write_json
from bitgolf.model.build import build_on_meta
from bitgolf.model.parameters import load_weights, parameter_roles
from bitgolf.pipeline.calibration import measure_calibration_reserve
from bitgolf.pipeline.checkpoint_owner import claim_checkpoints
from bitgolf.pipeline.host_files import host_inputs
from bitgolf.pipeline.observed_workers import observed_workers
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.pipeline.state import Run
from bitgolf.pipeline.training_result import PartUsageRow, ReserveRecord, TrainingResult
from bitgolf.pipeline.training_warnings import warn_if_nothing_learnt, warn_of_divergence, warn_of_unused
from bitgolf.pipeline.validation import HeldOutEvaluation
from bitgolf.quantize.calibration.sources import CalibrationContext
from bitgolf.quantize.rounded_phase import RoundedPhase
from bitgolf.recipes.identity import training_key
from bitgolf.recipes.recipe import Recipe
from bitgolf.recipes.time_limit import calibration_reserve, training_time_limit
from bitgolf.report.log import RunLog
from bitgolf.report.progress import Progress
from bitgolf.runtime import process_group
from bitgolf.runtime.device import Device, select_device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.launch import run_worker
from bitgolf.runtime.progress import CalibrationReserve, TrainingProgress
from bitgolf.training import checkpoint, loop, setup
from bitgolf.training.checkpoint_manager import TrainResult
from bitgolf.training.rounded_weights import RoundedWeights
from bitgolf.training.settings import Train
from bitgolf.training.trainer import Trainer
from bitgolf.training.validation import Validation
from bitgolf.training.validator import Evaluate, model_weights


class TrainingJob(msgspec.Struct, frozen=True, kw_only=True):
    """Training of a recipe on the shards in `data`; `folder` is the run's, which gets the checkpoints.

    device: kind of device, as in `select_device`. until: fraction of the training after which it is left unfinished.
    """

    recipe: Spec[Recipe]
    data: Path
    folder: Path
    seed: int = 0
    resume: bool = False
    device: str = "auto"
    until: float = 1.0


def training_inputs(run: Run) -> list[Any]:
    """Digest of the shards' manifest, the settings that determine training, and the seed."""
    return [data_digest(run.data_folder), training_key(run.recipe), run.seed]


def train(run: Run) -> TrainingResult:
    """Train in this process, or in `run.devices` processes under torchrun. Writes checkpoints and `train.json`.

    Raises `Stopped` for a training that is left unfinished at `run.train_until`; there is no `train.json` then.
    """
    claim_checkpoints(run)
    found, wanted = load_manifest(run.data_folder).vocab, run.recipe().tokens().vocab
    if found != wanted:
        message = f"tokens.vocab is {wanted:,}, but the shards have {found:,}: {found:,} is used"
        run.log.event("warning", message=message)
    job = TrainingJob(
        recipe=run.recipe,
        data=run.data_folder,
        folder=run.folder,
        seed=run.seed,
        resume=run.resume,
        device=run.device_type,
        until=run.train_until,
    )
    result = train_rank(job, run.log) if run.devices == 1 else _train_in_workers(run, job)
    if not _is_finished(job, result):
        reason = f"{job.until:.3g} of the training is done"
        raise Stopped(f"after step {result.steps}", reason, where=str(run.folder), hint="--resume continues")
    return result


def _is_finished(job: TrainingJob, result: TrainingResult) -> bool:
    """Whether a training has reached its end, not only `job.until`."""
    seconds, limit = result.training_seconds, result.time_limit_seconds
    return job.until == 1 or TrainingProgress(result.steps, job.recipe["train.steps"], seconds, limit).fraction == 1


def _train_in_workers(run: Run, job: TrainingJob) -> TrainingResult:
    with observed_workers(run.log, run.files.log):
        return run_worker(
            train_worker,
            job,
            task="training",
            where=run.folder,
            processes=run.devices,
            resume_option="--resume",
            stop=run.log.stop,
            inputs=lambda: host_inputs(run, *checkpoint.checkpoint_files(run.files.checkpoints) if run.resume else ()),
        )


# ---- one process of training ---------------------------------------------------------------------------------------


class Rank(NamedTuple):
    """One training process: its process group, device and log."""

    distributed: DistributedContext
    device: Device
    log: RunLog


def train_worker(job: TrainingJob) -> TrainingResult:
    """Run `train_rank` as one of several processes. Rank 0 writes the run's log; the others are quiet."""
    rank = process_group.rank_from_environment()
    log = RunLog(None if rank else job.folder, quiet=rank > 0)
    try:
        return train_rank(job, log)
    finally:
        log.close()


def train_rank(job: TrainingJob, log: RunLog) -> TrainingResult:
    """Train on this rank's share of each batch. Rank 0 writes checkpoints and `train.json` to the job's folder."""
    with process_group.joined(job.device) as distributed:
        rank = Rank(distributed, select_device(distributed.local_rank, job.device), log)
        limit, reserve = training_limit(job, rank)
        result = _train(job, rank, limit, reserve)
        if distributed.rank == 0 and _is_finished(job, result):
            write_json(RunFiles(job.folder).training, msgspec.to_builtins(result))
    return result


def training_limit(job: TrainingJob, rank: Rank) -> tuple[float, CalibrationReserve | None]:
    """Return the seconds after which training ends (0: no limit), and the calibration reserve if it was measured."""
    given = calibration_reserve(job.recipe)
    if given is not None:
        limit = training_time_limit(job.recipe, given)
        if limit:
            rank.log.event("calibration_reserve", seconds=given, time_limit_seconds=limit)
        return limit, None
    reserve = measure_calibration_reserve(job.recipe, job.data, rank.distributed, rank.device)
    limit = training_time_limit(job.recipe, reserve.seconds)
    words = {"seconds": reserve.seconds, "time_limit_seconds": limit}
    rank.log.event("calibration_reserve", **words, **reserve._asdict())
    rank.log.info(
        f"calibration is expected to take {reserve.seconds:.1f} s (1.1 x ({reserve.rounds} x"
        f" {reserve.round_seconds:.3f} s + {reserve.fixed_seconds:.3f} s)): training ends after {limit:.1f} s"
    )
    return limit, reserve


def _train(job: TrainingJob, rank: Rank, limit: float, reserve: CalibrationReserve | None) -> TrainingResult:
    trainer, tokens = make_trainer(job, rank)
    settings, parameters = trainer.settings, sum(p.numel() for p in trainer.params.values())
    if job.resume and rank.distributed.rank == 0:
        warn_of_divergence(rank.log, RunFiles(job.folder).log)
    try:
        evaluate = _evaluation(job, rank, trainer)
        begun = setup.setup_trainer(trainer, rank.log)
        _log_beginning(rank.log, settings, parameters, tokens, limit)
        reached = _train_loop(job, rank, trainer, limit, evaluate)
    finally:
        trainer.close()
    epochs = reached.tokens / tokens
    result = TrainingResult(
        steps=reached.steps,
        tokens=reached.tokens,
        training_seconds=reached.training_seconds,
        loss=reached.loss,
        time_limit_seconds=reached.time_limit,
        graph=begun.graph,
        kernels=begun.kernels,
        part_usage=msgspec.convert(begun.part_usage, list[PartUsageRow]),
        epochs=epochs,
        device=rank.device.description,
        processes=rank.distributed.world_size,
        parameters=parameters,
        calibration_reserve=reserve and ReserveRecord(*reserve),
    )
    if _is_finished(job, result):
        warn_of_unused(rank.log, trainer, epochs, tokens)
        if rank.distributed.rank == 0:
            warn_if_nothing_learnt(rank.log, RunFiles(job.folder).log)
    return result


def _train_loop(job: TrainingJob, rank: Rank, trainer: Trainer, limit: float, evaluate: Evaluate | None) -> TrainResult:
    return loop.train(
        trainer,
        RunFiles(job.folder).checkpoints,
        _event_logger(rank.log, trainer.settings, limit),
        resume=job.resume,
        limit=limit,
        until=job.until,
        stop=rank.log.stop,
        evaluate=evaluate,
    )


def _log_beginning(log: RunLog, settings: Train, parameters: int, tokens: int, limit: float) -> None:
    batch = f"{settings.rows} x {settings.length}"
    log.info(f"{parameters:,} parameters; {tokens:,} training tokens; batches of {batch}")
    log.event("training", steps=settings.steps, time_limit_seconds=limit, parameters=parameters)


def make_trainer(job: TrainingJob, rank: Rank) -> tuple[Trainer, int]:
    """Return a trainer on the job's shards, and their number of tokens."""
    recipe, manifest = job.recipe(), load_manifest(job.data)
    settings = recipe.train()
    stream = open_split(job.data, "train")
    batches = BatchLoader(
        stream, rows=settings.rows, length=settings.length, order=settings.order(), seed=job.seed, bos=manifest.bos
    )
    context = BuildContext(vocab=manifest.vocab, bos=manifest.bos)
    trainer = Trainer(
        recipe.model, recipe.train, recipe.average, context, batches, rank.device, rank.distributed, job.seed
    )
    if recipe.rounded_phase:
        trainer.round_weights(rounded_weights(recipe.rounded_phase(), trainer, job.data))
    return trainer, len(stream)


def rounded_weights(phase: RoundedPhase, trainer: Trainer, data: Path) -> RoundedWeights:
    """The rounding of a trainer's weights, with a model of reference modules that shares them for calibration."""
    context, device = trainer.build_context, trainer.device
    model = build_on_meta(trainer.model_spec, context.vocab, context.bos)
    load_weights(model, {k: p.detach() for k, p in trainer.params.items() if not k.startswith("objective.")})
    subject = CalibrationContext(
        model.eval().to(device.torch_device), data, trainer.settings.length, context.bos, device.autocast
    )
    params = {path: trainer.params[path] for path in phase.paths(parameter_roles(model))}
    return RoundedWeights(phase.since, phase.every, params, lambda: phase.stored(subject, trainer.distributed))


def _evaluation(job: TrainingJob, rank: Rank, trainer: Trainer) -> Evaluate | None:
    """What scores held-out text during training; None if the recipe has no validation. It is made before the clock starts."""
    if isinstance(trainer.settings.validation, Validation):
        return _held_out_evaluation(job, rank, trainer, trainer.settings.validation)
    return None


def _held_out_evaluation(job: TrainingJob, rank: Rank, trainer: Trainer, settings: Validation) -> HeldOutEvaluation:
    evaluation = HeldOutEvaluation(job.recipe, settings, job.data, rank.device, rank.distributed, rank.log)
    if rank.device.torch_device.type == "cuda":
        with torch.random.fork_rng([rank.device.torch_device]):
            evaluation.warm_up(model_weights(trainer))
    clock = "on" if settings.on_clock else "not on"
    rank.log.info(f"validation: {evaluation.targets:,} held-out targets; its time is {clock} the training clock")
    return evaluation


def _event_logger(log: RunLog, settings: Train, limit: float) -> loop.LogEvent:
    validated = ""

    def report(kind: str, **fields: Any) -> None:
        nonlocal limit, validated
        log.event(kind, **fields)
        if kind == "step":
            now = TrainingProgress(fields["step"], settings.steps, fields["training_seconds"], limit)
            log.progress(_progress(now, fields["loss"], fields["tokens"], validated))
        if kind == "validation":
            validated = f"validation {fields['bpb']:.4f} bpb"
            log.info(
                f"{validated} after step {fields['step']:,} ({fields['weights']} weights, {fields['seconds']:.1f} s)"
            )
        if kind == "phase":
            losses = f"loss {fields['loss_before']:.4f} before, {fields['loss_after']:.4f} after"
            log.info(f"a phase starts at {fields['phase_start']:g} of the run: {losses}")
        if kind == "resume":
            limit = fields["time_limit_seconds"]  # of the run that is resumed
            until = f"; training ends after {limit:.4g} s" if limit else ""
            log.info(f"resumed after step {fields['step']:,}{until}")

    return report


def _progress(now: TrainingProgress, loss: float, tokens: int, validated: str) -> Progress:
    """What is shown after a step. loss: nats per token. validated: the last validation in words, "" without one."""
    seconds = max(now.elapsed_seconds, 1e-9)
    facts = (f"loss {loss:.3f}", f"{tokens / seconds:,.0f} tokens/s", f"step {now.step:,}", validated)
    return Progress("train", now.fraction, now.steps_left * seconds / max(now.step, 1), tuple(filter(None, facts)))
