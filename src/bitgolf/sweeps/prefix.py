"""Beginnings of trainings: their scores, by which a search chooses the runs that it continues, and what they cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.files import read_checked_json, write_checked_json
from bitgolf.pipeline.execute import ExecutionOptions
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.pipeline.stages import stage_named
from bitgolf.pipeline.state import Run, open_run
from bitgolf.pipeline.validation import HeldOutEvaluation
from bitgolf.report.log import RunLog
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training import checkpoint
from bitgolf.training.validation import Validation

LATEST_END = 0.02
"""Share of a training on a clock by which a step, and saving its state, may end after the share that was asked for."""


class PrefixScore(msgspec.Struct, frozen=True, kw_only=True):
    """Score of a training that was left unfinished.

    key: of the stage `train`. share: of the training that was asked for. step, training_seconds: what had been trained.
    tokens: held-out targets that were asked for. bpb: bits per byte of the weights after the last step, not averaged.
    seconds: wall time since the score before, of `processes` processes on `device`; threads: of each on a CPU.
    """

    key: str
    share: float
    step: int
    training_seconds: float
    tokens: int
    bpb: float
    seconds: float
    device: str
    processes: int
    threads: int


def training_stage_key(run: Run) -> str:
    """What determines the training of a run: scores with another key are of another training."""
    return stage_named("train").key(run)


def read_prefix_scores(folder: Path) -> list[PrefixScore]:
    """The scores in the folder of a run, of all its trainings; none if the file is missing or damaged."""
    file = RunFiles(folder).prefix_scores
    try:
        return msgspec.convert(read_checked_json(file)["scores"], list[PrefixScore]) if file.exists() else []
    except (CorruptFileError, KeyError, msgspec.ValidationError):
        return []


def record_prefix_score(folder: Path, share: float, tokens: int, options: ExecutionOptions, seconds: float) -> None:
    """Score the last checkpoint of a run, which was left unfinished at a share of its training, and record the score.

    seconds: wall time of this training. Raises `BitgolfError` if the checkpoint is of a later step.
    """
    run = replace(open_run(folder, RunLog(quiet=True)), device_type=options.device, devices=options.processes)
    found = checkpoint.load_latest(run.files.checkpoints)
    if found is None:
        raise BitgolfError("there is no checkpoint", where=str(run.files.checkpoints), hint="run the sweep again")
    reached = _progress(run, found)
    _check_share(folder, reached, share)
    score = PrefixScore(
        key=training_stage_key(run),
        share=share,
        step=found.step,
        training_seconds=reached.elapsed_seconds,
        tokens=tokens,
        bpb=_bpb(run, found, reached, tokens),
        seconds=seconds,
        device=select_device(device_type=options.device).description,
        processes=options.processes,
        threads=torch.get_num_threads(),
    )
    rows: list[Any] = msgspec.to_builtins([*read_prefix_scores(folder), score])
    write_checked_json(run.files.prefix_scores, {"scores": rows})


def unknown_score(folder: Path, share: float) -> BitgolfError:
    """The error for a run whose score at a share of its training was not recorded when it was there."""
    message = f"this run was trained beyond {share:.3g} of its training, so that its score there is not known"
    return BitgolfError(message, where=str(folder), hint="choose another --out")


def _progress(run: Run, found: checkpoint.Checkpoint) -> TrainingProgress:
    limits = run.recipe["train.steps"], float(found.meta["limit"])
    return TrainingProgress(found.step, limits[0], float(found.meta["elapsed"]), limits[1])


def _check_share(folder: Path, reached: TrainingProgress, share: float) -> None:
    """Raise `BitgolfError` if a training has passed a share by more than its last step."""
    allowed = reached.fraction / max(reached.step, 1)
    if reached.max_seconds:
        allowed = max(allowed, LATEST_END)
    if reached.fraction >= share + allowed:
        raise unknown_score(folder, share)


def _bpb(run: Run, found: checkpoint.Checkpoint, reached: TrainingProgress, tokens: int) -> float:
    """Bits per byte of a checkpoint's weights on the first held-out targets, in the phase that training is in."""
    device, log = select_device(device_type=run.device_type), RunLog(quiet=True)
    settings = Validation(tokens=tokens)
    evaluate = HeldOutEvaluation(run.recipe, settings, run.data_folder, device, SINGLE_PROCESS, log)
    weights = {path: found.tensors[f"weights/{path}"] for path in found.meta["paths"]}
    return evaluate({k: w for k, w in weights.items() if not k.startswith("objective.")}, reached).bpb
