"""Queries on a recipe that several cautions share."""

from __future__ import annotations

from typing import Any

from bitgolf.average.ema import EMA
from bitgolf.config.spec import Spec
from bitgolf.model.attention.cores.scheduled_segments import ScheduledSegmentMask
from bitgolf.model.attention.cores.sdpa import SegmentMask
from bitgolf.model.build import model_size
from bitgolf.model.layer_orders import ExplicitLayerOrder, LoopedLayers
from bitgolf.model.part import Only, parse_layers
from bitgolf.model.weight_sharing import LoopWithUntiedMLP, TieBlocks
from bitgolf.optim.schedules import WarmdownFraction
from bitgolf.recipes.recipe import Recipe


def builds(node: Spec[Any], *classes: type) -> bool:
    """Whether a node constructs one of these classes or a subclass of one."""
    return isinstance(node.cls, type) and issubclass(node.cls, classes)


def find_nodes(tree: Spec[Any], *classes: type) -> list[Spec[Any]]:
    """All nodes of a tree that construct one of these classes or a subclass of one."""
    return [node for _, node in tree.walk() if builds(node, *classes)]


def layers_with(recipe: Spec[Recipe], cls: type) -> list[int]:
    """Indices of the layers with a part of this class. A layer with several such parts occurs several times."""
    found, count = [], model_size(recipe().model).layers
    for path, node in recipe().model["block"].walk():
        held = node["use"] if builds(node, Only) else node
        if builds(held, cls) and not path.endswith(".use"):
            found += range(count) if held is node or node["layers"] == "*" else parse_layers(node["layers"], count)
    return found


def training_context(recipe: Spec[Recipe]) -> int:
    """Length of the longest context in training, in tokens: of a row, or of a segment if `SegmentMask` limits it."""
    caps = map(longest_trained_segment, find_nodes(recipe().model, SegmentMask))
    return min([recipe().train().length, *(cap for cap in caps if cap)])


def longest_trained_segment(mask: Spec[Any]) -> int:
    """The largest maximum length of a `SegmentMask` in training, 0 for no limit."""
    if not builds(mask, ScheduledSegmentMask):
        return mask["max_length"]
    stages = mask["stages"]
    to_the_end = stages[-1][1] == 1  # then `max_length` is that of scoring alone
    return max([length for length, _ in stages] + [mask["max_length"]] * (not to_the_end))


def scoring_context(recipe: Spec[Recipe]) -> int:
    """The largest window of the scoring methods, in tokens; 0 without scoring methods."""
    return max((method().window for method in recipe().score), default=0)


def layer_sharing_parts(recipe: Spec[Recipe]) -> list[Spec[Any]]:
    """The nodes that cause the model to use the same matrices more than once per forward pass."""
    repeated = [n for n in find_nodes(recipe, ExplicitLayerOrder) if len(set(n["order"])) < len(n["order"])]
    return repeated + find_nodes(recipe, LoopedLayers, TieBlocks, LoopWithUntiedMLP)


def shares_from_start(node: Spec[Any]) -> bool:
    """Whether this node of `layer_sharing_parts` shares layers from the first step of training."""
    return not (builds(node, LoopWithUntiedMLP) or (builds(node, LoopedLayers) and min(node["since"]) > 0))


def averaging_start(recipe: Spec[Recipe]) -> float:
    """The fraction of the run at which the average starts to take snapshots.

    0 if it has no start, or if the start does not follow from the learning rate schedule alone.
    """
    average, schedule = recipe().average, recipe().train().lr_schedule
    if average and average.cls is EMA:
        return average["since"]
    if average is None or "lr_scale_below" not in average.kwargs or schedule.cls is not WarmdownFraction:
        return 0.0
    return max(0.0, 1 - average["lr_scale_below"] * schedule["fraction"])
