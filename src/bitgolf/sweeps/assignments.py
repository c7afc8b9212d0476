"""Sweeps in words: `PATH=A,B`, `NAME: EDIT; EDIT`, numbers of seeds, and names of parts, as a command line has them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from bitgolf.config.parse import apply_edit
from bitgolf.config.paths import resolve_path
from bitgolf.config.spec import Spec, part
from bitgolf.config.values import parse_value
from bitgolf.errors import UsageError, error_location
from bitgolf.sweeps.factors import Factor, FactorLevel
from bitgolf.sweeps.gates import Gate
from bitgolf.sweeps.search.search import Search

MOST_SEEDS = 1_000
LARGEST_SEED = 2**63 - 1
VARIANT_FACTOR = "variant"
"""Name of the factor of all `--variant` options."""


def split_values(text: str, separator: str = ",") -> list[str] | None:
    """Split a text at separators outside of brackets and quotes; None if brackets do not match or a piece is empty."""
    values, depth = [""], 0
    for piece in re.findall(r"'[^']*'|\"[^\"]*\"|.", text, re.DOTALL):
        depth += (piece in "([{") - (piece in ")]}")
        if depth < 0:
            return None
        if piece == separator and not depth:
            values.append("")
        else:
            values[-1] += piece
    values = [value.strip() for value in values]
    return None if depth or not all(values) else values


def split_assignment(assignment: str) -> tuple[str, list[str]]:
    """Split `PATH=A,B` into the path and its values. Raises `UsageError` if it is malformed."""
    path, equals, text = assignment.partition("=")
    if not equals or not path.strip():
        hint = "for example quantize.1.use.bits=3,4"
        raise UsageError(f"{assignment!r} is not PATH=VALUE,VALUE", where="--set", hint=hint)
    if (values := split_values(text)) is None:
        raise UsageError(f"expected values separated by commas, got {text!r}", where=path)
    return path.strip(), values


def factors_of(assignments: Sequence[str], recipe: Spec[Any]) -> tuple[list[str], list[Spec[Factor]]]:
    """(edits of all variants, factors): an assignment with one value is an edit, with several a factor.

    recipe: in which paths may be short. Raises `UsageError` for a path that is given twice, and `RecipeError` for a path
    or value that it cannot have.
    """
    edits, found = list[str](), dict[str, list[str]]()
    for assignment in assignments:
        path, values = split_assignment(assignment)
        full = resolve_path(recipe, path)
        for value in values:
            with error_location(f"--set {path}={value}"):
                apply_edit(recipe, f"{full}={value}")
        if full in found or any(edit.startswith(f"{full}=") for edit in edits):
            raise UsageError("each path may be given once", where=f"--set {assignment}", hint=f"{path} is {full}")
        if len(values) == 1:
            edits.append(f"{full}={values[0]}")
        else:
            found[full] = values
    return edits, [_factor(path, _short(path, list(found)), values) for path, values in found.items()]


def _short(path: str, paths: Sequence[str]) -> str:
    """The shortest end of a path that no other of the paths has."""
    words = path.split(".")
    ends = [".".join(words[i:]) for i in reversed(range(len(words)))]
    others = [other for other in paths if other != path]
    return next(end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others))


def _factor(path: str, short: str, values: Sequence[str]) -> Spec[Factor]:
    levels = tuple(part(FactorLevel, name=f"{short}={value}", edits=(f"{path}={value}",)) for value in values)
    return part(Factor, name=path, levels=levels)


def variants_factor(given: Sequence[str]) -> Spec[Factor]:
    """The factor of variants `NAME: EDIT; EDIT`. Raises `UsageError` if one is malformed."""
    return part(Factor, name=VARIANT_FACTOR, levels=tuple(map(_variant, given)))


def _variant(text: str) -> Spec[FactorLevel]:
    name, colon, rest = text.partition(":")
    edits = split_values(rest, ";") if colon else None
    if not name.strip() or not edits or not all("=" in edit for edit in edits):
        hint = "for example --variant 'strong decay: Muon.weight_decay=0.2; Adam.weight_decay=0.2'"
        raise UsageError(f"expected NAME: PATH=VALUE; PATH=VALUE, got {text!r}", where="--variant", hint=hint)
    return part(FactorLevel, name=name.strip(), edits=tuple(edits))


def parse_seeds(text: str, first: int = 0) -> tuple[int, ...]:
    """The seeds of `3` (three of them, from `first` on), or of `42,314,1337` (these). Raises `UsageError` otherwise."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and len(word) < 20 and int(word) <= LARGEST_SEED for word in words):
        raise UsageError(
            f"expected a number of seeds, or seeds separated by commas, got {text!r}",
            where="--seeds",
            hint="--seeds 3, or --seeds 42,314,1337",
        )
    numbers = [int(word) for word in words]
    if len(numbers) > 1:
        if len(set(numbers)) < len(numbers):
            raise UsageError(f"seeds must differ, got {text}", where="--seeds", hint="leave the repeated one out")
        return tuple(numbers)
    if not 1 <= numbers[0] <= MOST_SEEDS:
        message = f"expected 1 to {MOST_SEEDS:,} seeds, got {text}"
        raise UsageError(message, where="--seeds", hint="--seeds 3, or --seeds 42,314,1337")
    return tuple(range(first, first + numbers[0]))


def parse_search(text: str) -> Spec[Search]:
    """The search of a text such as `GreedyForward(margin=0.001)`."""
    return parse_value(text, Spec[Search], "--search")


def parse_gates(texts: Sequence[str]) -> tuple[Spec[Gate], ...]:
    """The gates of texts such as `TrainedBpbAbove(limit=1.3)`."""
    return tuple(parse_value(text, Spec[Gate], "--gate") for text in texts)
