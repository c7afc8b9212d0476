"""Scoring methods as plans of windows: which targets are scored in which window, each exactly once.

A plan is over T targets: target t is the token after input t. A window (start, stop, first) reads inputs
start … stop-1 and scores targets first … stop-1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

from bitgolf.errors import RecipeError
from bitgolf.spec import register


class Window(NamedTuple):
    start: int
    stop: int
    first: int


class Method:
    """A way of scoring. `name` is what results call it; `adapts`, whether the model changes while it is scored."""

    name: str
    adapts: ClassVar[bool] = False
    window: int
    stride: int

    def windows(self, targets: int) -> Iterator[Window]:
        """Every target once: all of the first window, then the last `stride` of each, the tail included."""
        if targets < 1:
            return
        yield Window(0, min(self.window, targets), 0)
        done = min(self.window, targets)
        while done < targets:
            stop = min(done + self.stride, targets)
            start = done + self.stride - self.window
            yield Window(start, stop, done)
            done = stop


@register
class Contiguous(Method):
    """Blocks of `window` tokens that do not overlap; a target sees half a window on average."""

    name = "contiguous"

    def __init__(self, *, window: int = 1024) -> None:
        if window < 1:
            raise RecipeError(f"a window of {window} tokens is not one", place="score")
        self.window = self.stride = window


@register
class Sliding(Method):
    """Windows of `window` tokens every `stride`; past the first, a target sees at least window - stride tokens."""

    name = "sliding"

    def __init__(self, *, window: int = 1024, stride: int = 64) -> None:
        if not 1 <= stride <= window:
            raise RecipeError(f"stride {stride} does not fit a window of {window}", place="score")
        self.window, self.stride = window, stride
