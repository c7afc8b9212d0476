"""Cautions about adaptation during scoring."""

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

LARGEST_KNOWN_LR = 0.005  # largest learning rate of SGD adaptation reported to work on a looped model (#1493)


@caution
def key_offset_with_adaptation(recipe: Spec[Recipe]) -> Iterator[str]:
    if find_nodes(recipe().model, KeyOffset) and any(getattr(m.cls, "adapts", False) for m in recipe().score):
        yield "KeyOffset with adaptation during scoring: worse by 0.02 bpb after adaptation (harness of #1493)"


@caution
def large_adaptation_lr_on_shared_layers(recipe: Spec[Recipe]) -> Iterator[str]:
    rates = [
        node["adaptation.lr"]
        for method in recipe().score
        for node in find_nodes(method, StreamSGD)
        if builds(node["adaptation"], SGDAdaptation)
    ]
    if layer_sharing_parts(recipe) and max(rates, default=0.0) > LARGEST_KNOWN_LR:
        yield f"SGD adaptation with a learning rate of {max(rates):g} on layers that are executed more than once: 0.005 worked in #1493, but was worse by 0.6 bpb on another stack"


@caution
def adamw_adaptation_of_all_weights(recipe: Spec[Recipe]) -> Iterator[str]:
    if any(
        builds(node["adaptation"], AdamWAdaptation)
        for method in recipe().score
        for node in find_nodes(method, StreamSGD)
    ):
        yield "AdamWAdaptation of all weights in StreamSGD: 1.2804 bpb, against 1.1515 with SGD (#1045); it was better in #503, where only the last two blocks were adapted"


@caution
def many_adaptation_phases(recipe: Spec[Recipe]) -> Iterator[str]:
    for node in find_nodes(recipe, PhasedLoRA):
        if (count := len(node["boundaries"])) >= 6:
            yield f"{count} adaptation phases: six or more overfitted their documents (#1626)"
