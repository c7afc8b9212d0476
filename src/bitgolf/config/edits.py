"""Edits that are used again and again: functions from node to node, for `Spec.edit`; and what two trees differ in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bitgolf.config.spec import Spec


def append(**parts: Spec[Any]) -> Callable[[Spec[Any]], Spec[Any]]:
    """An edit that adds a part at the end of a chain: `append(pre_block=part(Smear))`."""
    return lambda node: node.replace(**{k: (*node.kwargs[k], v) for k, v in parts.items()})


def remove(chain: str, cls: type) -> Callable[[Spec[Any]], Spec[Any]]:
    """An edit that takes the parts of a class out of a chain."""
    return lambda node: node.replace(**{chain: tuple(s for s in node.kwargs[chain] if s.cls is not cls)})


def replace(**kwargs: Any) -> Callable[[Spec[Any]], Spec[Any]]:
    """An edit that replaces arguments."""
    return lambda node: node.replace(**kwargs)


def diff(a: Spec[Any], b: Spec[Any]) -> list[tuple[str, Any, Any]]:
    """(path, value in a, value in b) wherever two trees differ; None where a path is absent."""
    left, right = dict(a.leaves()), dict(b.leaves())
    return [(p, left.get(p), right.get(p)) for p in {**left, **right} if left.get(p) != right.get(p)]
