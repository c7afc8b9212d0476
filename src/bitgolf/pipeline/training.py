"""The stages `train` and `average`: shards -> checkpoints -> the weights that are quantized."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from safetensors.torch import save as safetensors_bytes

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec
from bitgolf.data.batches import BatchLoader
from bitgolf.data.manifest import load_manifest
from bitgolf.data.shards import TokenStream, find_shards
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.files import file_digest, json_digest, read_json, write_bytes, write_json
from bitgolf.pipeline.calibration import measure_calibration_reserve
from bitgolf.pipeline.state import Run, RunFiles
from bitgolf.pipeline.training_result import PartUsageRow, ReserveRecord, TrainingResult
from bitgolf.recipes.identity import training_key
from bitgolf.recipes.recipe import Recipe
from bitgolf.recipes.time_limit import calibration_reserve, training_time_limit
from bitgolf.report.log import RunLog
from bitgolf.runtime import process_group
from bitgolf.runtime.device import Device, select_device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.launch import run_worker
from bitgolf.runtime.progress import CalibrationReserve
from bitgolf.train import checkpoint, loop, setup
from bitgolf.train.settings import Train
from bitgolf.train.trainer import Trainer, extract_average_state


class TrainingJob(msgspec.Struct, frozen=True, kw_only=True):
    """What is trained, on which shards, and the run folder that holds the checkpoints.

    device: the kind, as `device.select_device` takes it.
    """

    recipe: Spec[Recipe]
    data: Path
    folder: Path
    seed: int = 0
    resume: bool = False
    device: str = "auto"


class AveragedWeights(msgspec.Struct, frozen=True):
    """step: of the checkpoint; by: the part of the recipe that averaged, or `none`."""

    step: int
    by: str


def training_inputs(run: Run) -> list[Any]:
    """The shards, what of the recipe decides training, and the seed."""
    return [file_digest(run.data_folder / "manifest.json"), training_key(run.recipe), run.seed]


def train(run: Run) -> TrainingResult:
    """Shards -> checkpoints. One process here, or many under torchrun."""
    job = TrainingJob(
        recipe=run.recipe,
        data=run.data_folder,
        folder=run.folder,
        seed=run.seed,
        resume=run.resume,
        device=run.device_type,
    )
    if run.devices == 1:
        return train_rank(job, run.log)
    return run_worker(
        train_worker, job, task="training", where=run.folder, processes=run.devices, resume_option="--resume"
    )


def check_checkpoint_owner(run: Run) -> None:
    """Never mix two trainings: a folder's checkpoints belong to one recipe, one seed, one text. Raises before any harm."""
    folder = run.files.checkpoints
    key = json_digest([training_key(run.recipe), run.seed, str(load_manifest(run.data_folder).train)])
    mine = folder / "key.json"
    if mine.exists() and not run.overwrite:
        if read_json(mine) != key:
            raise UsageError(
                "this folder holds the training of another recipe, seed or text",
                where=str(folder),
                hint="choose another --out, or --from train to replace it",
            )
        if not run.resume and checkpoint.load_latest(folder):
            raise UsageError(
                "this folder holds an unfinished training",
                where=str(folder),
                hint="--resume goes on with it, --from train starts again",
            )
    if run.overwrite and folder.exists():
        shutil.rmtree(folder)
    write_json(mine, key)


# ---- one process of training ---------------------------------------------------------------------------------------


class Rank(NamedTuple):
    """This process among those that train, its device, and where it reports."""

    distributed: DistributedContext
    device: Device
    log: RunLog


def train_worker(job: TrainingJob) -> TrainingResult:
    """One of several processes. The first keeps the log of the run."""
    rank = process_group.rank_from_environment()
    log = RunLog(None if rank else job.folder, quiet=rank > 0)
    try:
        return train_rank(job, log)
    finally:
        log.close()


def train_rank(job: TrainingJob, log: RunLog) -> TrainingResult:
    """Train in this process's share of the world. Leaves checkpoints and `train.json` in the job's folder."""
    with process_group.joined(job.device) as distributed:
        rank = Rank(distributed, select_device(distributed.local_rank, job.device), log)
        limit, reserve = _time_limit(job, rank)
        result = _train(job, rank, limit, reserve)
        if distributed.rank == 0:
            write_json(RunFiles(job.folder).training, msgspec.to_builtins(result))
    return result


def _time_limit(job: TrainingJob, rank: Rank) -> tuple[float, CalibrationReserve | None]:
    """Seconds after which training ends (0: no limit), and what calibration needs of the clock, where it is measured."""
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
        f"calibration takes about {reserve.seconds:.1f} s ({reserve.rounds} x {reserve.round_seconds:.3f} s"
        f" + {reserve.fixed_seconds:.3f} s, and a tenth): training ends after {limit:.1f} s"
    )
    return limit, reserve


def _train(job: TrainingJob, rank: Rank, limit: float, reserve: CalibrationReserve | None) -> TrainingResult:
    trainer, tokens = _trainer(job, rank)
    settings, parameters = trainer.settings, sum(p.numel() for p in trainer.params.values())
    try:
        begun = setup.setup_trainer(trainer, rank.log)
        batch = f"{settings.rows} x {settings.length}"
        rank.log.info(f"{parameters:,} parameters; {tokens:,} training tokens; batches of {batch}")
        report = _event_logger(rank.log, settings, limit)
        reached = loop.train(trainer, RunFiles(job.folder).checkpoints, report, resume=job.resume, limit=limit)
    finally:
        trainer.close()
    epochs = reached.tokens / tokens
    _warn(rank.log, trainer, epochs, tokens)
    return TrainingResult(
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


def _trainer(job: TrainingJob, rank: Rank) -> tuple[Trainer, int]:
    """A trainer on the shards in a folder, and how many tokens those have."""
    recipe, manifest = job.recipe(), load_manifest(job.data)
    settings, vocab = recipe.train(), recipe.tokens().vocab
    if manifest.vocab != vocab:
        message = f"the recipe's vocabulary is {vocab:,}, that of the shards {manifest.vocab:,}, which counts"
        rank.log.event("warning", message=message)
    stream = TokenStream(find_shards(job.data, "train"))
    batches = BatchLoader(
        stream, rows=settings.rows, length=settings.length, order=settings.order(), seed=job.seed, bos=manifest.bos
    )
    place = BuildContext(vocab=manifest.vocab, bos=manifest.bos)
    return Trainer(
        recipe.model, recipe.train, recipe.average, place, batches, rank.device, rank.distributed, job.seed
    ), len(stream)


def _warn(log: RunLog, trainer: Trainer, epochs: float, tokens: int) -> None:
    """What a reader of the result must know of how training went."""
    if late := trainer.phases.never_reached:
        message = f"training ended before the phase at {late[0]:g} of it: what is scored was never trained so"
        log.event("warning", message=message)
    if epochs > 1:
        message = f"training read its text {epochs:.1f} times ({tokens:,} tokens): more text may score better"
        log.event("warning", message=message)


def _event_logger(log: RunLog, settings: Train, limit: float) -> loop.LogEvent:
    limits = [f"{limit:.4g} s"] * (limit > 0) + [f"{settings.steps:,} steps"] * (settings.steps > 0)

    def report(kind: str, **fields: Any) -> None:
        log.event(kind, **fields)
        if kind == "step":
            seconds = fields["training_seconds"]
            log.progress(
                f"train: step {fields['step']:,}, loss {fields['loss']:.3f} nats per token,"
                f" {fields['tokens'] / max(seconds, 1e-9):,.0f} tokens/s, {seconds:.0f} s of {' or '.join(limits)}"
            )
        if kind == "phase":
            losses = f"loss {fields['loss_before']:.4f} before, {fields['loss_after']:.4f} after"
            log.info(f"from {fields['phase_start']:g} of the run on the graph is another: {losses}")
        if kind == "resume":
            limit = fields["time_limit_seconds"]
            until = f", to end after {limit:.4g} s" if limit else ""
            log.info(f"resumed after step {fields['step']:,}{until}")

    return report


# ---- the average ---------------------------------------------------------------------------------------------------


def averaging_inputs(run: Run) -> list[Any]:
    return [run.completed["train"]["key"]]


def average(run: Run) -> AveragedWeights:
    """The last checkpoint -> the weights that ship."""
    found = checkpoint.load_latest(run.files.checkpoints)
    if found is None:
        raise BitgolfError("there is no checkpoint", where=str(run.folder), hint="--from train")
    live = {path: found.tensors[f"weights/{path}"] for path in found.meta["paths"]}  # in the order of the average
    means, chosen = live, run.recipe().average
    if chosen:
        state = extract_average_state(found.tensors)
        means = dict(zip(live, chosen().result(state, list(live.values())), strict=True))
    for file, weights in ((run.files.trained, live), (run.files.averaged, means)):
        own = {k: v.float().contiguous() for k, v in weights.items() if not k.startswith("objective.")}
        write_bytes(file, safetensors_bytes(own))
    return AveragedWeights(step=found.step, by=chosen.name if chosen else "none")
