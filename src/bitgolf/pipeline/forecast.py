"""Forecasts for a recipe that is not trained yet: bytes of the artifact, memory of training, space on the disk."""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec
import torch

from bitgolf.artifact.container import CONTAINER_OVERHEAD_BYTES
from bitgolf.cautions.queries import find_nodes
from bitgolf.config.build_context import BuildContext
from bitgolf.model.build import build_on_meta, model_size
from bitgolf.model.lm import LM
from bitgolf.model.parameters import parameter_roles
from bitgolf.optim.muon import Muon
from bitgolf.optim.optimizer import Optimizer
from bitgolf.pipeline.code_size import NOT_MEASURED, CodeSize
from bitgolf.quantize.size_forecast import forecast_bytes, matrix_std
from bitgolf.recipes.recipe import Recipe
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.loss_module import LossModule

FORECAST_ERROR = "forecasts err by up to 13 %"
CHECKPOINTS = 3
"""Checkpoints on the disk at once: two are kept while the next one is written."""


class RecipeForecast(msgspec.Struct, frozen=True, kw_only=True):
    """Forecast for a recipe that is not trained yet.

    bytes: of the artifact without its tokenizer. streams: stream name -> bytes. code: size of the script that `export`
    writes, which is no forecast; None if it was not made or cannot be, and `code_note` says why. counted, total, cap: what
    the cap limits (`model` or `model+code`), the forecast of that, and the cap.
    training_state_bytes: memory of weights, gradients, optimizer and average in one training process, without
    activations.
    """

    bytes: int
    code: int | None
    code_note: str
    counted: str
    total: int
    cap: int
    streams: dict[str, int]
    training_state_bytes: int

    @property
    def over_cap(self) -> str:
        """A sentence that says by how much the forecast is over the cap; "" if it is not."""
        if self.total <= self.cap:
            return ""
        subject = "the artifact and the script are" if self.total > self.bytes else "the artifact is"
        excess = f"{self.total - self.cap:,} more than the cap of {self.cap:,} (pack.cap)"
        return f"{subject} forecast to have {self.total:,} bytes, {excess}"


class ModelForecast(NamedTuple):
    """A recipe's model on the meta device, with the role of each parameter by path, and the forecast."""

    model: LM
    roles: dict[str, str]
    forecast: RecipeForecast


def forecast_recipe(recipe: Recipe, vocab: int, code: CodeSize = NOT_MEASURED) -> ModelForecast:
    """Build model and optimizer on the meta device, so that errors of the recipe are raised as in a run; forecast them.

    code: size of the recipe's script, which is part of the forecast.
    """
    model = build_on_meta(recipe.model, vocab)
    roles = parameter_roles(model)
    with torch.device("meta"):
        train = recipe.train()
        task = LossModule(model, train.objective(BuildContext(vocab=vocab, dim=model_size(recipe.model).dim)))
        optimizer = Optimizer(task.parameters_by_path(), task.roles(), train.optim)
    shapes = {path: tuple(p.shape) for path, p in model.named_parameters()}
    pack = recipe.pack()
    groups, decayed = pack.groups_by_path(roles), matrix_std(muon_weight_decay(recipe))
    streams = forecast_bytes(shapes, roles, recipe.quantize, pack.coder, groups, spread=decayed)
    artifact = sum(streams.values()) + CONTAINER_OVERHEAD_BYTES
    expected = RecipeForecast(
        bytes=artifact,
        code=code.bytes,
        code_note=code.note,
        counted=pack.counted,
        total=artifact + pack.counted_code(code.bytes),
        cap=pack.cap,
        streams=streams,
        training_state_bytes=training_state_bytes(recipe, task, optimizer),
    )
    return ModelForecast(model, roles, expected)


def muon_weight_decay(recipe: Recipe) -> float:
    """Largest weight decay of any Muon in the recipe; for a schedule, the value at half of the run. 0 without Muon."""
    halfway = TrainingProgress(step=1, max_steps=2, elapsed_seconds=0.0, max_seconds=0.0, lr_scale=0.5)
    return max(
        (
            n["weight_decay"] * (n["weight_decay_schedule"]().value(halfway) if n["weight_decay_schedule"] else 1.0)
            for n in find_nodes(recipe.train, Muon)
        ),
        default=0.0,
    )


def training_state_bytes(recipe: Recipe, task: LossModule, optimizer: Optimizer) -> int:
    """Bytes of weights, gradients, optimizer state, average and lookahead in one training process."""
    params = list(task.parameters_by_path().values())
    with torch.device("meta"):
        average = recipe.average().init_state([p.detach() for p in params]) if recipe.average else {}
    held = [*params, *params, *optimizer.state_dict().values(), *optimizer.buffers()]
    held += [tensor for tensors in average.values() for tensor in tensors]
    held += [*params, *params] if recipe.train["lookahead"] else []
    return sum(t.numel() * t.element_size() for t in held)


def forecast_run_bytes(recipe: Recipe, found: ModelForecast, text_bytes: int) -> int:
    """Bytes that the files of a run will take, roughly and rather too many.

    text_bytes: size of the text to prepare, 0 if there is nothing to prepare. Shards have 2 bytes per token; a token of
    a trained vocabulary has at least 2 bytes of text. Calibration stores Hessians and a row statistic for each matrix.
    """
    shapes = [tuple(p.shape) for p in found.model.parameters()]
    count = sum(map(math.prod, shapes))
    shards = text_bytes * (1 if recipe.tokens().vocab >= 512 else 2)
    matrices = [(found.roles[path], p) for path, p in found.model.named_parameters() if p.ndim == 2]
    statistics = sum(_statistics_bytes(recipe, role, *p.shape) for role, p in matrices if recipe.calibrate)
    weights = 2 * 4 * count  # trained and averaged
    return shards + CHECKPOINTS * found.forecast.training_state_bytes + weights + statistics + 2 * count


def _statistics_bytes(recipe: Recipe, role: str, rows: int, columns: int) -> int:
    """Bytes of the calibration statistics of one matrix, whose Hessian is counted as if no other matrix shared it."""
    kind = recipe.calibrate().hessians if recipe.calibrate else None
    further = (kind.row_groups * columns**2 + kind.outputs * rows**2) if kind and role == "matrix" else 0
    return 4 * (columns**2 + rows + further)
