"""Counts how often each part of a recipe runs and what it owns. A part that never runs is an error."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bitgolf.config.registry import part_name
from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.model.build import specs_by_path
from bitgolf.model.part import Only

PROBE_TOKENS = 2048
"""Tokens per row of the probe batch: enough to run every part, and few enough for a dense attention mask."""


class PartUsage(NamedTuple):
    """Number of tensors and parameters of all parts of one class, and of their calls in one forward pass."""

    tensors: int
    parameters: int
    calls: int


@torch.no_grad()
def measure_part_usage(task: nn.Module, model: Spec[Any], ids: Tensor, targets: Tensor) -> dict[str, PartUsage]:
    """Part name -> usage in one forward pass, for each class of part in the recipe of the model.

    task: the loss module.  ids, targets: int64 (B, T), cut to the first `PROBE_TOKENS` of each row.
    Raises `RecipeError` if a node of the recipe builds a part that does not run.
    """
    calls: Counter[type] = Counter()
    ran: set[nn.Module] = set()

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        calls[type(module)] += 1
        ran.add(module)

    hooks = [m.register_forward_hook(count) for m in task.modules()]
    try:
        task(ids[:, :PROBE_TOKENS], targets[:, :PROBE_TOKENS])
    finally:
        for hook in hooks:
            hook.remove()
    specs = specs_by_path(model, len(task.get_parameter("model.embed.weight")))
    # compared by identity, as a recipe may contain equal nodes
    used = {id(node) for path, node in specs.items() if task.get_submodule(f"model.{path}".rstrip(".")) in ran}
    table: dict[str, PartUsage] = {}
    for path, node in model.walk("model"):
        cls = node.cls
        if node.cls is Only or not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            continue
        if id(node) not in used and node is not model:
            raise RecipeError(
                f"{cls.__name__} is in the recipe and never runs",
                where=path,
                hint="remove the part, or let it apply to layers that exist",
            )
        table[part_name(cls)] = _part_usage(task, cls, calls[cls])
    return table


def _part_usage(task: nn.Module, cls: type, calls: int) -> PartUsage:
    own = [p for m in task.modules() if type(m) is cls for p in m.parameters(recurse=False)]
    return PartUsage(len(own), sum(p.numel() for p in own), calls)
