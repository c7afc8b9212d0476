"""Adaptation while scoring."""

from __future__ import annotations

from collections.abc import Iterator

from bitgolf.cautions.queries import is_a, shared_layers, uses
from bitgolf.cautions.registry import caution
from bitgolf.config.spec import Spec
from bitgolf.model.attention.key_offset import KeyOffset
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.adapt.gradient import AdamW, Sgd
from bitgolf.score.adapt.phased_lora import Phased
from bitgolf.score.adapt.stream_sgd import StreamSgd

FASTEST = 0.005  # learning rate of descent on a looped model that is known to have worked (#1493)


@caution
def offset_keys_and_adaptation(recipe: Spec[Recipe]) -> Iterator[str]:
    if uses(recipe().model, KeyOffset) and any(getattr(m.cls, "adapts", False) for m in recipe().score):
        yield "KeyOffset with adaptation while scoring: +0.02 after adaptation (#1493's harness)"


@caution
def fast_descent_on_shared_layers(recipe: Spec[Recipe]) -> Iterator[str]:
    rates = [node["sgd.lr"] for method in recipe().score for node in uses(method, StreamSgd) if is_a(node["sgd"], Sgd)]
    if shared_layers(recipe) and max(rates, default=0.0) > FASTEST:
        yield f"descent at {max(rates):g} on layers that are visited more than once: 0.005 worked in #1493, and on another stack it was +0.6"


@caution
def adam_on_the_stream(recipe: Spec[Recipe]) -> Iterator[str]:
    if any(is_a(node["sgd"], AdamW) for method in recipe().score for node in uses(method, StreamSgd)):
        yield "AdamW on all weights of the stream: 1.2804 where plain descent had 1.1515 (#1045); better in #503, on the last two blocks alone"


@caution
def many_phases(recipe: Spec[Recipe]) -> Iterator[str]:
    for node in uses(recipe, Phased):
        if (count := len(node["boundaries"])) >= 6:
            yield f"{count} phases: six or more learned their documents by heart (#1626)"
