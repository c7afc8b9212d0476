"""What a recipe amounts to, without training it: counts, roles, forecast, cautions."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from bitgolf.cautions import cautions
from bitgolf.cautions.queries import uses
from bitgolf.config.build_context import Place
from bitgolf.config.spec import Spec
from bitgolf.model.build import build_on_meta
from bitgolf.model.parameters import roles
from bitgolf.optim.muon import Muon
from bitgolf.optim.optimizer import Optimizer
from bitgolf.quantize.calibration.calibrate import check as check_calibration
from bitgolf.quantize.diagnose.qat_consistency import disagreements
from bitgolf.quantize.size_forecast import forecast, spread
from bitgolf.recipes.identity import identity
from bitgolf.recipes.recipe import Recipe
from bitgolf.recipes.time_limit import limit_of, reserve_of
from bitgolf.runtime.progress import Now
from bitgolf.train.loss_module import Task

HEADER = 1200  # bytes of frame, recipe and section table, as artifacts have them


def overview(recipe: Spec[Recipe]) -> dict[str, Any]:
    """The document of `show --json`. Building everything on the way, it raises for what a run would refuse."""
    check_calibration(recipe["quantize"], recipe["calibrate"])
    limit_of(recipe, reserve_of(recipe) or 0.0)
    vocab = recipe["tokens.vocab"]
    model = build_on_meta(recipe["model"], vocab)
    kinds, params = roles(model), dict(model.named_parameters())
    with torch.device("meta"):
        train = recipe["train"]()
        task = Task(model, train.objective(Place(vocab=vocab, dim=recipe["model.dim"])))
        optimizer = Optimizer(task.by_path(), task.roles(), train.optim)
    shapes = {path: tuple(p.shape) for path, p in params.items()}
    pack = recipe["pack"]()
    groups, decayed = pack.grouped(kinds), spread(matrix_decay(recipe))
    streams = forecast(shapes, kinds, recipe["quantize"], pack.coder, groups, spread=decayed)
    size = {
        "bytes": sum(streams.values()) + HEADER,
        "cap": pack.cap,
        "streams": streams,
        "memory": memory(recipe, task, optimizer),
    }
    by_role = Counter()
    for path, p in params.items():
        by_role[kinds[path]] += p.numel()
    return {
        "name": recipe["name"],
        "hash": identity(recipe),
        "params": sum(p.numel() for p in params.values()),
        "params_by_role": dict(by_role),
        "layers": recipe["model.layers"],
        "vocab": vocab,
        "forecast": size,
        "parts": sorted({node.name for _, node in recipe.walk()}),
        "settings": [
            {"path": path, "value": value}
            for path, value in recipe.leaves()
            if path and not path.startswith("published")
        ],
        "cautions": cautions(recipe, size["bytes"]) + disagreements(model, recipe["quantize"]),
        "published": recipe["published"],
    }


def matrix_decay(recipe: Spec[Recipe]) -> float:
    """Muon's weight decay, halfway where it has a schedule; 0 without Muon."""
    halfway = Now(step=1, steps=2, elapsed=0.0, seconds=0.0, rate=0.5)
    return max(
        (n["weight_decay"] * (n["decay"]().value(halfway) if n["decay"] else 1.0) for n in uses(recipe["train"], Muon)),
        default=0.0,
    )


def memory(recipe: Spec[Recipe], task: Task, optimizer: Optimizer) -> int:
    """Bytes of weights, gradients, optimizer and average in training, in one process; activations come on top."""
    params = list(task.by_path().values())
    with torch.device("meta"):
        average = recipe["average"]().start(params) if recipe["average"] else {}
    held = [*params, *params, *optimizer.state().values(), *optimizer.buffers()]
    held += [tensor for tensors in average.values() for tensor in tensors]
    return sum(t.numel() * t.element_size() for t in held)
