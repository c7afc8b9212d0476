"""`bitgolf show`: parameters, forecasts and cautions of a recipe, without training it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import torch

from bitgolf.artifact.container import CONTAINER_OVERHEAD_BYTES
from bitgolf.cautions import cautions
from bitgolf.cautions.queries import find_nodes
from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec
from bitgolf.model.build import build_on_meta, model_size
from bitgolf.model.lm import LM
from bitgolf.model.parameters import parameter_roles
from bitgolf.optim.muon import Muon
from bitgolf.optim.optimizer import Optimizer
from bitgolf.quantize.calibration.calibrate import check_calibration
from bitgolf.quantize.diagnose.qat_consistency import qat_mismatches
from bitgolf.quantize.size_forecast import forecast_bytes, matrix_std
from bitgolf.recipes.check import check_recipe
from bitgolf.recipes.identity import recipe_hash
from bitgolf.recipes.recipe import Recipe
from bitgolf.recipes.time_limit import calibration_reserve, training_time_limit
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.train.loss_module import LossModule


class RecipeForecast(msgspec.Struct, frozen=True, kw_only=True):
    """Forecast for a recipe that is not trained yet.

    bytes: of the artifact without its tokenizer. streams: stream name -> bytes. cap: limit of `bytes`.
    training_state_bytes: memory of weights, gradients, optimizer and average in one training process, without
    activations.
    """

    bytes: int
    cap: int
    streams: dict[str, int]
    training_state_bytes: int


class RecipeSetting(msgspec.Struct, frozen=True):
    """A setting of a recipe. value: for a part, the name of its class."""

    path: str
    value: Any


class RecipeSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `show --json`.

    params: number of parameters of the model. parts: names of the parts in the recipe. published: entry of
    `published.json`, None if there is none.
    """

    name: str
    hash: str
    params: int
    params_by_role: dict[str, int]
    layers: int
    vocab: int
    forecast: RecipeForecast
    parts: list[str]
    settings: list[RecipeSetting]
    cautions: list[str]
    published: dict[str, Any] | None


def describe_recipe(recipe: Spec[Recipe]) -> RecipeSummary:
    """Summary of a recipe.

    The model and the optimizer are built on the meta device, so errors of the recipe are raised as in a run.
    """
    check_recipe(recipe)
    settings = recipe()
    check_calibration(settings.quantize, settings.calibrate)
    training_time_limit(recipe, calibration_reserve(recipe) or 0.0)
    vocab = settings.tokens().vocab
    model = build_on_meta(settings.model, vocab)
    roles, params = parameter_roles(model), dict(model.named_parameters())
    expected, by_role = _forecast(settings, model, roles, vocab), Counter[str]()
    for path, p in params.items():
        by_role[roles[path]] += p.numel()
    return RecipeSummary(
        name=settings.name,
        hash=recipe_hash(recipe),
        params=sum(p.numel() for p in params.values()),
        params_by_role=dict(by_role),
        layers=model_size(settings.model).layers,
        vocab=vocab,
        forecast=expected,
        parts=sorted({node.name for _, node in recipe.walk()}),
        settings=[RecipeSetting(p, v) for p, v in recipe.leaves() if p and not p.startswith("published")],
        cautions=cautions(recipe, expected.bytes) + qat_mismatches(model, settings.quantize),
        published=settings.published,
    )


def _forecast(recipe: Recipe, model: LM, roles: dict[str, str], vocab: int) -> RecipeForecast:
    with torch.device("meta"):
        train = recipe.train()
        task = LossModule(model, train.objective(BuildContext(vocab=vocab, dim=model_size(recipe.model).dim)))
        optimizer = Optimizer(task.parameters_by_path(), task.roles(), train.optim)
    shapes = {path: tuple(p.shape) for path, p in model.named_parameters()}
    pack = recipe.pack()
    groups, decayed = pack.groups_by_path(roles), matrix_std(muon_weight_decay(recipe))
    streams = forecast_bytes(shapes, roles, recipe.quantize, pack.coder, groups, spread=decayed)
    return RecipeForecast(
        bytes=sum(streams.values()) + CONTAINER_OVERHEAD_BYTES,
        cap=pack.cap,
        streams=streams,
        training_state_bytes=training_state_bytes(recipe, task, optimizer),
    )


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
    """Bytes of weights, gradients, optimizer state and average in one training process."""
    params = list(task.parameters_by_path().values())
    with torch.device("meta"):
        average = recipe.average().init_state([p.detach() for p in params]) if recipe.average else {}
    held = [*params, *params, *optimizer.state_dict().values(), *optimizer.buffers()]
    held += [tensor for tensors in average.values() for tensor in tensors]
    return sum(t.numel() * t.element_size() for t in held)
