"""Common edits for `Spec.edit` (functions from node to node), and the difference of two trees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher
from enum import Enum
from itertools import zip_longest
from typing import Any, NamedTuple, TypeGuard

from bitgolf.config.spec import Spec, join_path


def append(**parts: Spec[Any]) -> Callable[[Spec[Any]], Spec[Any]]:
    """Return an edit that adds a part at the end of a tuple argument: `append(pre_block=part(Smear))`."""
    return lambda node: node.replace(**{k: (*node.kwargs[k], v) for k, v in parts.items()})


def remove(chain: str, cls: type) -> Callable[[Spec[Any]], Spec[Any]]:
    """Return an edit that removes all parts of class `cls` from the tuple argument named `chain`."""
    return lambda node: node.replace(**{chain: tuple(s for s in node.kwargs[chain] if s.cls is not cls)})


def replace(**kwargs: Any) -> Callable[[Spec[Any]], Spec[Any]]:
    """Return an edit that replaces arguments by name."""
    return lambda node: node.replace(**kwargs)


class Absent(Enum):
    """The value of a setting that a recipe does not have."""

    ABSENT = "absent"


ABSENT = Absent.ABSENT


class Difference(NamedTuple):
    """A path and its values in two trees; `ABSENT` where a tree has no such path.

    path: that in b, or that in a if b has none. The indices of a chain differ where a part was added before others.
    """

    path: str
    a: Any
    b: Any


def diff(a: Any, b: Any, path: str = "") -> Iterator[Difference]:
    """Yield a difference for every setting whose values differ.

    Parts of the same class are compared by their arguments, parts of different classes as a whole. Chains are aligned
    by the classes of their parts, and rules by what they match.
    """
    if a == b:
        return
    if isinstance(a, Spec) and isinstance(b, Spec) and a.cls is b.cls:
        for key in a.kwargs:
            yield from diff(a.kwargs[key], b.kwargs[key], join_path(path, key))
    elif _is_chain_of_parts(a) and _is_chain_of_parts(b):
        yield from _diff_chains(a, b, path)
    else:
        yield Difference(path, a, b)


def _is_chain_of_parts(value: Any) -> TypeGuard[tuple[Spec[Any], ...]]:
    return isinstance(value, tuple) and all(isinstance(item, Spec) for item in value)


def _diff_chains(a: Sequence[Spec[Any]], b: Sequence[Spec[Any]], path: str) -> Iterator[Difference]:
    keys = [[(node.name, node.kwargs.get("where")) for node in chain] for chain in (a, b)]
    for kind, i, i_end, j, j_end in SequenceMatcher(None, *keys, autojunk=False).get_opcodes():
        for old, new in zip_longest(range(i, i_end), range(j, j_end)):
            at = join_path(path, old if new is None else new)
            before, after = (ABSENT if old is None else a[old]), (ABSENT if new is None else b[new])
            if kind == "equal":
                yield from diff(before, after, at)
            else:
                yield Difference(at, before, after)
