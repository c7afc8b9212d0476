"""The settings that fill a cap: the steps of every codec finer or coarser by one factor, until the file is a hair under it.

A factor of two, an octave, costs every weight about a bit. So the size is nearly a straight line over octaves, and two or
three encodings find the cap. What is left is noise: a step that is a little other sends the rounding other ways, and the
size jumps by a few bytes. Where the window under the cap is narrower than that (files of some ten kilobytes, which encode
in no time), more settings are tried, each a draw of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from bitgolf.config.rules import Rule, cover
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.grids.clip import SdClip
from bitgolf.quantize.codecs.codec import Codec, IntRows
from bitgolf.quantize.codecs.trellis import Trellis
from bitgolf.quantize.encoding import Roles, Rules

WINDOW = 5e-4  # of the cap: as far as the file may stay under it
MOST = 40  # where the window is narrower than the noise
LEAP = 16  # bytes by which the smallest files change at once
LEAST_BITS, MOST_BITS = 0.25, 7.0  # of a weight: with less a model is nothing, and an index must fit its byte
LEAST_CLIP = 4.0  # standard deviations: closer, and the largest weights saturate
LARGEST_STEP = math.sqrt(
    2 * math.pi * math.e / (2 ** (2 * LEAST_BITS) - 1)
)  # in spreads: a Gaussian has LEAST_BITS there


class Probe(NamedTuple):
    """A setting that was tried: `octaves` finer than the recipe's, the bytes expected before and found after."""

    octaves: float
    expected: int
    bytes: int


class Fit(NamedTuple):
    """The probes in their order, and the one that ships."""

    best: Probe
    probes: tuple[Probe, ...]


# ---- the knobs -----------------------------------------------------------------------------------------------------


def finer(rules: Rules, octaves: float) -> tuple[Spec[Rule[Codec]], ...]:
    """These rules with all steps smaller by so many octaves, larger where negative. What has no such setting stays.

    `Trellis.bits` is a mean over its matrices, so it moves by as much; `SdClip.k` moves the step, the container stays.
    Raises `RecipeError` beyond `reach`.
    """
    low, high = reach(rules)
    if not low <= octaves <= high:
        raise RecipeError(
            f"steps may be {-low:.2f} octaves larger and {high:.2f} smaller, not {octaves:+.2f}", place="quantize"
        )
    for cls, change in (
        (Trellis, lambda node: node.but(bits=_short(node["bits"] + octaves))),
        (SdClip, lambda node: node.but(k=_short(node["k"] * 2.0**-octaves))),
    ):
        rules = [_edited(rule, cls, change) for rule in rules]
    return tuple(rules)


def reach(rules: Rules) -> tuple[float, float]:
    """By how many octaves steps may become coarser (not above 0) and finer (not below), all of them together.

    The finest: 7 bits for `Trellis`; clips at 4 standard deviations, since closer ones cut off what they should round.
    The coarsest: a quarter of a bit. Raises `RecipeError` where no codec has a continuous setting.
    """
    ranges = [own for rule in rules for own in _ranges(rule)]
    if not ranges:
        raise RecipeError(
            "no codec of these rules has a continuous setting, so their size cannot be moved",
            place="quantize",
            mend="a rule that uses Trellis(bits=...), or IntRows(clip=SdClip(k=...))",
        )
    return min(0.0, max(low for low, _ in ranges)), max(0.0, min(high for _, high in ranges))


def slope(rules: Rules, roles: Roles, sizes: Mapping[str, int]) -> float:
    """About how many bytes an octave takes: a bit of every weight that moves. `sizes`: path -> weights."""
    taken = cover(rules, roles, place="quantize")
    return (
        sum(sizes[path] for rule, paths in zip(rules, taken, strict=True) if any(_ranges(rule)) for path in paths) / 8
    )


def _ranges(rule: Spec[Rule[Codec]]) -> Iterator[tuple[float, float]]:
    for _, node in rule.walk():
        if _is(node, Trellis):
            yield LEAST_BITS - node["bits"], MOST_BITS - node["bits"]
        if _is(node, IntRows) and _is(node["clip"], SdClip):
            k, grid = node["clip.k"], node().grid
            yield math.log2(k * grid.multiple / grid.reach / LARGEST_STEP), math.log2(k / LEAST_CLIP)


def _is(node: Spec[Any], cls: type) -> bool:
    return isinstance(node.cls, type) and issubclass(node.cls, cls)


def _edited(rule: Spec[Rule[Codec]], cls: type, change: Callable[[Spec[Any]], Spec[Any]]) -> Spec[Rule[Codec]]:
    """`Spec.edit`, for once without error where nothing is touched or changed."""
    return rule.edit(cls, change) if any(_is(n, cls) and change(n) != n for _, n in rule.walk()) else rule


def _short(x: float) -> float:
    """Digits that a header can afford; a step moves by a millionth, 36 million weights by a few bytes."""
    return float(f"{x:.7g}")


# ---- the search ----------------------------------------------------------------------------------------------------


class Line:
    """Bytes over octaves, as far as they are known.

    slope: bytes of an octave, about.  window: bytes that do not matter.  forecast: bytes at 0 while nothing is measured.
    points: (octaves, bytes) as measured.
    """

    def __init__(self, slope: float, window: float, forecast: int = 0) -> None:
        self.slope, self.window, self.forecast = slope, window, (0.0, forecast)
        self.points: list[tuple[float, int]] = []

    def at(self, octaves: float, aim: float) -> int:
        """The bytes to expect, from the point nearest to `aim`."""
        (near, size), *_ = self._near(aim)
        return round(size + self._slope(aim) * (octaves - near))

    def where(self, aim: float) -> float:
        """The octaves at which to expect so many bytes: the mean of what the last points near them say."""
        width = max(self.window, LEAP * (1 + len(self.points) / 20))
        close = [point for point in self.points if abs(point[1] - aim) < 4 * width][-4:] or self._near(aim)[:1]
        found = sum(octaves + (aim - size) / self._slope(aim) for octaves, size in close) / len(close)
        # Where noise decides, each probe stands elsewhere about the aim, evenly spread.
        spread = (len(self.points) * 0.618 % 1 - 0.5) if len(close) > 1 else 0.0
        return found + 0.8 * spread * width / self.slope

    def _near(self, aim: float) -> list[tuple[float, int]]:
        return sorted(self.points or [self.forecast], key=lambda point: abs(point[1] - aim))

    def _slope(self, aim: float) -> float:
        """That of the chord between the nearest point and the next one that noise cannot make steep or flat."""
        first, *rest = self._near(aim)
        for point in rest:
            if abs(point[1] - first[1]) > 8 * self.window and point[0] != first[0]:
                return min(max((point[1] - first[1]) / (point[0] - first[0]), self.slope / 4), 2 * self.slope)
        return self.slope


def fit(size: Callable[[float, int], int], cap: int, line: Line, span: tuple[float, float], most: int = MOST) -> Fit:
    """Try settings until the file has at most `cap` bytes and is at most 0.05 % under it; the best of `most` otherwise.

    size: (octaves finer, bytes that are expected) -> bytes; dear.  span: the octaves that may be tried, see `reach`.
    Raises `BitgolfError` where the cap lies beyond the span, with the bytes at its ends.
    """
    aim, least, probes, octaves = cap * (1 - WINDOW / 2), cap * (1 - WINDOW), list[Probe](), 0.0
    while len(probes) < most and not (probes and least <= probes[-1].bytes <= cap):
        octaves = min(max(line.where(aim), span[0]), span[1])
        if octaves in span and any(octaves == probe.octaves for probe in probes):
            break  # it lies beyond the end, where we have been
        expected = line.at(octaves, aim)
        probes.append(Probe(octaves, expected, size(octaves, expected)))
        line.points.append((octaves, probes[-1].bytes))
    under = [probe for probe in probes if probe.bytes <= cap]
    if not under or (len(under) == len(probes) and octaves == span[1] and max(p.bytes for p in under) < least):
        ends = [f"about {line.at(end, aim):,}" for end in span]
        raise BitgolfError(
            f"a file of {cap:,} bytes is out of reach: with the coarsest steps it takes {ends[0]}, with the finest {ends[1]}",
            place="pack",
            mend="a cap between them, other codecs (more bits of IntRows), or another model",
        )
    return Fit(max(under, key=lambda probe: probe.bytes), tuple(probes))
