"""What a recipe holds: the questions that cautions ask of it."""

from __future__ import annotations

from typing import Any

from bitgolf.config.spec import Spec
from bitgolf.model.attention.cores.sdpa import Segments
from bitgolf.model.layer_orders import Loop, Visits
from bitgolf.model.part import Only, layer_set
from bitgolf.model.weight_sharing import TieBlocks, UntiedRepeats
from bitgolf.optim.schedules import WarmdownFraction
from bitgolf.recipes.recipe import Recipe


def is_a(node: Spec[Any], *classes: type) -> bool:
    return isinstance(node.cls, type) and issubclass(node.cls, classes)


def uses(tree: Spec[Any], *classes: type) -> list[Spec[Any]]:
    """The nodes of these classes, or of ones derived from them, anywhere in a tree."""
    return [node for _, node in tree.walk() if is_a(node, *classes)]


def layers_of(recipe: Spec[Recipe], cls: type) -> list[int]:
    """The layers that have a part of this class; twice, where they have two."""
    found, count = [], recipe().model["layers"]
    for path, node in recipe().model["block"].walk():
        held = node["use"] if is_a(node, Only) else node
        if is_a(held, cls) and not path.endswith(".use"):
            found += range(count) if held is node or node["layers"] == "*" else layer_set(node["layers"], count)
    return found


def trained_length(recipe: Spec[Recipe]) -> int:
    """The longest distance between tokens in training, and one: a row, or a segment of it."""
    return min([recipe().train().length, *(n["cap"] for n in uses(recipe().model, Segments) if n["cap"])])


def longest_window(recipe: Spec[Recipe]) -> int:
    return max((method().window for method in recipe().score), default=0)


def shared_layers(recipe: Spec[Recipe]) -> list[Spec[Any]]:
    """What makes the model visit the same matrices more than once."""
    again = [n for n in uses(recipe, Visits) if len(set(n["order"])) < len(n["order"])]
    return again + uses(recipe, Loop, TieBlocks, UntiedRepeats)


def shared_at_once(node: Spec[Any]) -> bool:
    """Whether what visits layers again does so from the first step on."""
    return not (is_a(node, UntiedRepeats) or (is_a(node, Loop) and min(node["since"]) > 0))


def averaged_from(recipe: Spec[Recipe]) -> float:
    """The fraction of the run from which an average takes snapshots; 0 where a schedule does not tell it beforehand."""
    average, schedule = recipe().average, recipe().train().schedule
    if average is None or "below" not in average.kwargs or schedule.cls is not WarmdownFraction:
        return 0.0
    return max(0.0, 1 - average["below"] * schedule["fraction"])
