"""Values of recipes as one line of text that `--set PATH=` accepts."""

from __future__ import annotations

from typing import Any

WORDS = {True: "true", False: "false", None: "none"}


def readable(value: Any) -> str:
    """Return a value as text: a word as it is, a part as `SquaredLeakyReLU(slope=0.3)` without its defaults."""
    if value is None or isinstance(value, bool):
        return WORDS[value]
    return value if isinstance(value, str) else repr(value)
