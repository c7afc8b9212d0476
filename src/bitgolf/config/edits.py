"""Common edits for `Spec.edit` (functions from node to node), and the difference of two trees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bitgolf.config.spec import Spec


def append(**parts: Spec[Any]) -> Callable[[Spec[Any]], Spec[Any]]:
    """Return an edit that adds a part at the end of a tuple argument: `append(pre_block=part(Smear))`."""
    return lambda node: node.replace(**{k: (*node.kwargs[k], v) for k, v in parts.items()})


def remove(chain: str, cls: type) -> Callable[[Spec[Any]], Spec[Any]]:
    """Return an edit that removes all parts of class `cls` from the tuple argument named `chain`."""
    return lambda node: node.replace(**{chain: tuple(s for s in node.kwargs[chain] if s.cls is not cls)})


def replace(**kwargs: Any) -> Callable[[Spec[Any]], Spec[Any]]:
    """Return an edit that replaces arguments by name."""
    return lambda node: node.replace(**kwargs)


def diff(a: Spec[Any], b: Spec[Any]) -> list[tuple[str, Any, Any]]:
    """Return (path, value in a, value in b) for every path at which two trees differ; None for an absent path."""
    left, right = dict(a.leaves()), dict(b.leaves())
    return [(p, left.get(p), right.get(p)) for p in {**left, **right} if left.get(p) != right.get(p)]
