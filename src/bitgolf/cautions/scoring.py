"""Adaptation while scoring."""

from __future__ import annotations

from collections.abc import Iterator

from bitgolf.cautions.queries import builds, find_nodes, layer_sharing_parts
from bitgolf.cautions.registry import caution
from bitgolf.config.spec import Spec
from bitgolf.model.attention.key_offset import KeyOffset
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.adapt.gradient import AdamWAdaptation, SGDAdaptation
from bitgolf.score.adapt.phased_lora import PhasedLoRA
from bitgolf.score.adapt.stream_sgd import StreamSGD

LARGEST_KNOWN_LR = 0.005  # learning rate of descent on a looped model that is known to have worked (#1493)


@caution
def key_offset_with_adaptation(recipe: Spec[Recipe]) -> Iterator[str]:
    if find_nodes(recipe().model, KeyOffset) and any(getattr(m.cls, "adapts", False) for m in recipe().score):
        yield "KeyOffset with adaptation while scoring: +0.02 after adaptation (#1493's harness)"


@caution
def large_adaptation_lr_on_shared_layers(recipe: Spec[Recipe]) -> Iterator[str]:
    rates = [
        node["adaptation.lr"]
        for method in recipe().score
        for node in find_nodes(method, StreamSGD)
        if builds(node["adaptation"], SGDAdaptation)
    ]
    if layer_sharing_parts(recipe) and max(rates, default=0.0) > LARGEST_KNOWN_LR:
        yield f"descent at {max(rates):g} on layers that are visited more than once: 0.005 worked in #1493, and on another stack it was +0.6"


@caution
def adamw_adaptation_of_all_weights(recipe: Spec[Recipe]) -> Iterator[str]:
    if any(
        builds(node["adaptation"], AdamWAdaptation)
        for method in recipe().score
        for node in find_nodes(method, StreamSGD)
    ):
        yield "AdamWAdaptation on all weights of the stream: 1.2804 where plain descent had 1.1515 (#1045); better in #503, on the last two blocks alone"


@caution
def many_adaptation_phases(recipe: Spec[Recipe]) -> Iterator[str]:
    for node in find_nodes(recipe, PhasedLoRA):
        if (count := len(node["boundaries"])) >= 6:
            yield f"{count} phases: six or more learned their documents by heart (#1626)"
