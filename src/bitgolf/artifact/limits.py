"""Limits for the recipe in an untrusted artifact, checked on its JSON form before anything is built.

An artifact of 40 kB can have valid checksums and ask for terabytes: a window of 2^24 tokens, thousands of layers, or a
pattern that takes hours to match. The limits are far above what a model of 16 MB and its scoring use, and low enough
that reading costs at most about 500 MB of memory and 5 seconds beyond the model's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from bitgolf.errors import RecipeError

MAX_PARAMETERS = 1 << 28
MAX_TOKENIZER = 1 << 24  # bytes of the tokenizer file
MAX_VALUES, MAX_DEPTH, MAX_TEXT, MAX_ITEMS = 4_000, 40, 500, 64
"""Of the stored recipe: values, nesting, characters of a text, items of a list."""
MAX_INT, MAX_FLOAT = 1 << 22, 1e15
MAX_BUILT_VALUES = 25_000  # layers, times the values that describe a layer

LARGEST: Mapping[str, int] = {
    "layers": 256,
    "order": 1024,
    "cap": 1 << 40,
    "seed": 1 << 63,
    "window": 1 << 17,
    "stride": 1 << 17,
    "first_stride": 1 << 17,
    "length": 1 << 20,
    "original_length": 1 << 20,
    "rows": 1 << 12,
    "rank": 1 << 10,
    "steps": 1 << 8,
    "epochs": 1 << 8,
    "batch_size": 1 << 12,
    "sequence_length": 1 << 17,
    "max_tokens": 1 << 20,
    "chunk": 1 << 32,
    "history": 1 << 24,
    "states": 1 << 12,
}
"""Largest values of settings by name: of a number, or of the length of a list. Other numbers: `MAX_INT`, `MAX_FLOAT`."""

LARGEST_PRODUCTS = {("rows", "window"): 1 << 22, ("rows", "rank"): 1 << 16}
"""Largest products of two settings of one part, which are sizes of arrays."""


def check_stored_recipe(fields: Mapping[str, Any]) -> None:
    """Raise `RecipeError` if a value of a stored recipe (field -> JSON value) is above its limit."""
    for count, (path, key, value) in enumerate(_values(fields, "", "", 0)):
        if count > MAX_VALUES:
            raise _above(path, "the stored recipe has more values", f"than {MAX_VALUES:,}")
        _check_value(path, key, value)
    model = fields.get("model")
    layers = model.get("layers") if isinstance(model, dict) else 0
    built = sum(1 for _ in _values(model, "model", "", 0)) * (layers if isinstance(layers, int) else 0)
    if built > MAX_BUILT_VALUES:
        raise _above(
            "model.layers", f"{layers} layers with so many parts are too many", f"(limit {MAX_BUILT_VALUES:,})"
        )


def _values(value: Any, path: str, key: str, depth: int) -> Iterator[tuple[str, str, Any]]:
    """(path, name of the setting, value) of a JSON value and of all values in it."""
    yield path, key, value
    if depth > MAX_DEPTH:
        raise _above(path[:60], "the stored recipe is nested", f"over {MAX_DEPTH} deep")
    prefix = f"{path}." if path else ""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _values(item, f"{prefix}{name:.60}", name, depth + 1)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _values(item, f"{prefix}{i}", "", depth + 1)


def _check_value(path: str, key: str, value: Any) -> None:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise _above(path, f"a text has {len(value):,} characters", f"the limit is {MAX_TEXT}")
    if isinstance(value, list) and len(value) > (most := LARGEST.get(key, MAX_ITEMS)):
        raise _above(path, f"a list has {len(value):,} items", f"the limit is {most:,}")
    if isinstance(value, int) and abs(value) > (most := LARGEST.get(key, MAX_INT)):
        raise _above(
            path,
            f"{value:.6g} is too large" if abs(value) < 1e300 else "a number is too large",
            f"the limit is {most:,}",
        )
    if isinstance(value, float) and not abs(value) <= max(MAX_FLOAT, LARGEST.get(key, 0)):
        raise _above(path, f"{value:.6g} is too large", f"the limit is {MAX_FLOAT:g}")
    if isinstance(value, Mapping):
        for names, most in LARGEST_PRODUCTS.items():
            sizes = [value.get(name) for name in names]
            if all(isinstance(size, int) for size in sizes) and math.prod(map(int, filter(None, sizes))) > most:
                raise _above(path, f"{' x '.join(names)} is too large", f"the limit is {most:,}")


def _above(path: str, cause: str, limit: str) -> RecipeError:
    return RecipeError(f"{cause}, {limit}, in an artifact", where=path or "recipe", hint="use smaller settings")
