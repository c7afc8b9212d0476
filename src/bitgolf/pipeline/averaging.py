"""The stage `average`: the last checkpoint to the weights that are quantized."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from bitgolf.average.average import Average, AverageState
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError
from bitgolf.files import write_bytes
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.pipeline.state import Run
from bitgolf.training import checkpoint
from bitgolf.training.trainer import extract_average_state


class AveragedWeights(msgspec.Struct, frozen=True):
    """Outcome of the stage `average`. step: step of the checkpoint; by: class of the average, or `none`."""

    step: int
    by: str


def averaging_inputs(run: Run) -> list[Any]:
    return [run.completed["train"]["key"]]


def load_checkpoint(run: Run) -> None:
    """Check of the stage `average`: read the last checkpoint. Raises `BitgolfError` if there is none or all are damaged."""
    run.pending.checkpoint = checkpoint.load_latest(run.files.checkpoints)
    if run.pending.checkpoint is None:
        raise BitgolfError("there is no checkpoint", where=str(run.folder), hint="--from train trains again")


def average(run: Run) -> AveragedWeights:
    """Write the trained and the averaged weights of the last checkpoint, float32, without those of the objective.

    Without an average in the recipe, both are the same.
    """
    if run.pending.checkpoint is None:
        load_checkpoint(run)
    assert run.pending.checkpoint
    found, run.pending.checkpoint = run.pending.checkpoint, None
    chosen = run.recipe().average
    write_averages(found, chosen, run.files)
    return AveragedWeights(step=found.step, by=chosen.name if chosen else "none")


def write_averages(found: checkpoint.Checkpoint, chosen: Spec[Average] | None, files: RunFiles) -> None:
    """Write the trained and the averaged weights of a checkpoint; see `average`. chosen: the recipe's average."""
    live = {path: found.tensors[f"weights/{path}"] for path in found.meta["paths"]}  # order of the average's state
    means = averaged_weights(live, extract_average_state(found.tensors), chosen)
    for file, weights in ((files.trained, live), (files.averaged, means)):
        write_weights(file, weights)


def averaged_weights(
    live: Mapping[str, Tensor], state: AverageState, chosen: Spec[Average] | None
) -> Mapping[str, Tensor]:
    """Return the averaged weights, by path. live: the trained ones. chosen: the recipe's average; None for no average."""
    return dict(zip(live, chosen().result(state, list(live.values())), strict=True)) if chosen else live


def write_weights(file: Path, weights: Mapping[str, Tensor]) -> None:
    """Write weights in float32, without those of the objective."""
    own = {k: v.float().contiguous() for k, v in weights.items() if not k.startswith("objective.")}
    write_bytes(file, safetensors_bytes(own))
