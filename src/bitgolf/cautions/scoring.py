"""Adaptation while scoring."""

from __future__ import annotations

from collections.abc import Iterator

from bitgolf.cautions.holds import uses
from bitgolf.cautions.known import caution
from bitgolf.model.offset import KeyOffset
from bitgolf.recipe import Recipe
from bitgolf.spec import Spec


@caution
def offset_keys_and_adaptation(recipe: Spec[Recipe]) -> Iterator[str]:
    if uses(recipe["model"], KeyOffset) and any(getattr(m.cls, "adapts", False) for m in recipe["score"]):
        yield "KeyOffset with adaptation while scoring: +0.02 after adaptation (#1493's harness)"
