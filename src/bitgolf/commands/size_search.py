"""Step sizes with which an artifact fills a byte cap: all codecs' steps are scaled by one common factor.

The factor is given as its base-2 logarithm, `log2_step_scale`: 0 is the recipe's steps, -1 halves them. Halving costs every
weight about a bit, so the size is nearly linear in it, and two or three encodings find the cap. What is left is noise: a
slightly different step rounds many weights differently, and the size jumps by a few bytes. Where the tolerance below the
cap is narrower than that (files of some ten kilobytes, which encode in no time), more settings are tried, each an
independent draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from bitgolf.config.rules import Rule, assign_to_rules
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.grids.clip import SdClip
from bitgolf.quantize.codecs.codec import Codec, IntRows
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.encoding import Roles, Rules

TOLERANCE = 5e-4  # of the cap: as far as the file may stay under it
MAX_PROBES = 40  # where the tolerance is narrower than the noise
MIN_SIZE_JUMP = 16  # bytes by which the smallest files change at once
MIN_BITS, MAX_BITS = 0.25, 7.0  # of a weight: with less a model is nothing, and an index must fit its byte
MIN_CLIP = 4.0  # standard deviations: closer, and the largest weights saturate
MAX_STEP = math.sqrt(2 * math.pi * math.e / (2 ** (2 * MIN_BITS) - 1))
"""In standard deviations: a Gaussian with this step has `MIN_BITS`."""


class SizeProbe(NamedTuple):
    """A scale of the steps that was tried, the bytes predicted before and found after."""

    log2_step_scale: float
    predicted_bytes: int
    bytes: int


class FitResult(NamedTuple):
    """The probes in their order, and the one that ships."""

    best: SizeProbe
    probes: tuple[SizeProbe, ...]


# ---- the settings --------------------------------------------------------------------------------------------------


def scale_steps(rules: Rules, log2_scale: float) -> tuple[Spec[Rule[Codec]], ...]:
    """These rules with all steps multiplied by 2 ** log2_scale. Codecs without such a setting stay as they are.

    `TrellisCodec.bits` is a mean over its matrices and falls by `log2_scale`; `SdClip.k` moves the step, the bits of the grid stay.
    Raises `RecipeError` outside of `scale_range`.
    """
    low, high = scale_range(rules)
    if not low <= log2_scale <= high:
        raise RecipeError(
            f"steps can be scaled by 2^{low:+.2f} to 2^{high:+.2f}, not by 2^{log2_scale:+.2f}", where="quantize"
        )
    for cls, change in (
        (TrellisCodec, lambda node: node.replace(bits=_round(node["bits"] - log2_scale))),
        (SdClip, lambda node: node.replace(k=_round(node["k"] * 2.0**log2_scale))),
    ):
        rules = [_edited(rule, cls, change) for rule in rules]
    return tuple(rules)


def scale_range(rules: Rules) -> tuple[float, float]:
    """log2 of the smallest (not above 0) and of the largest factor (not below 0) by which all steps together can be scaled.

    The finest steps: 7 bits for `TrellisCodec`; clips at 4 standard deviations, since closer ones cut off what they should
    round. The coarsest: a quarter of a bit. Raises `RecipeError` where no codec has a continuous setting.
    """
    ranges = [own for rule in rules for own in _ranges(rule)]
    if not ranges:
        raise RecipeError(
            "no codec of these rules has a continuous setting, so their size cannot be moved",
            where="quantize",
            hint="a rule that uses TrellisCodec(bits=...), or IntRows(clip=SdClip(k=...))",
        )
    return min(0.0, max(low for low, _ in ranges)), max(0.0, min(high for _, high in ranges))


def bytes_per_log2(rules: Rules, roles: Roles, sizes: Mapping[str, int]) -> float:
    """About how many bytes are added when steps double, a negative number: a bit of every weight that moves.

    sizes: path -> number of weights.
    """
    taken = assign_to_rules(rules, roles, where="quantize")
    moved = [paths for rule, paths in zip(rules, taken, strict=True) if any(_ranges(rule))]
    return -sum(sizes[path] for paths in moved for path in paths) / 8


def _ranges(rule: Spec[Rule[Codec]]) -> Iterator[tuple[float, float]]:
    for _, node in rule.walk():
        if _is(node, TrellisCodec):
            yield node["bits"] - MAX_BITS, node["bits"] - MIN_BITS
        if _is(node, IntRows) and _is(node["clip"], SdClip):
            k, grid = node["clip.k"], node().grid
            yield -math.log2(k / MIN_CLIP), -math.log2(k * grid.multiple / grid.full_qmax / MAX_STEP)


def _is(node: Spec[Any], cls: type) -> bool:
    return isinstance(node.cls, type) and issubclass(node.cls, cls)


def _edited(rule: Spec[Rule[Codec]], cls: type, change: Callable[[Spec[Any]], Spec[Any]]) -> Spec[Rule[Codec]]:
    """`Spec.edit`, for once without error where nothing is touched or changed."""
    return rule.edit(cls, change) if any(_is(n, cls) and change(n) != n for _, n in rule.walk()) else rule


def _round(x: float) -> float:
    """Digits that a header can afford; a step moves by a millionth, 36 million weights by a few bytes."""
    return float(f"{x:.7g}")


# ---- the search ----------------------------------------------------------------------------------------------------


class SizeModel:
    """Bytes of the file as a function of `log2_step_scale`, as far as they are known.

    bytes_per_log2: about the bytes that are added when steps double (negative).  tolerance: bytes that do not matter.
    forecast: bytes at scale 0 while nothing is measured.  points: (log2_step_scale, bytes) as measured.
    """

    def __init__(self, bytes_per_log2: float, tolerance: float, forecast: int = 0) -> None:
        self.bytes_per_log2, self.tolerance, self.forecast = bytes_per_log2, tolerance, (0.0, forecast)
        self.points: list[tuple[float, int]] = []

    def predict(self, log2_step_scale: float, aim: float) -> int:
        """The bytes to expect, from the point nearest to `aim`."""
        (near, size), *_ = self._near(aim)
        return round(size + self._slope(aim) * (log2_step_scale - near))

    def solve(self, aim: float) -> float:
        """The scale at which to expect so many bytes: the mean of what the last points near them say."""
        width = max(self.tolerance, MIN_SIZE_JUMP * (1 + len(self.points) / 20))
        close = [point for point in self.points if abs(point[1] - aim) < 4 * width][-4:] or self._near(aim)[:1]
        found = sum(scale + (aim - size) / self._slope(aim) for scale, size in close) / len(close)
        # Where noise decides, each probe stands elsewhere about the aim, evenly spread.
        offset = (len(self.points) * 0.618 % 1 - 0.5) if len(close) > 1 else 0.0
        return found + 0.8 * offset * width / self.bytes_per_log2

    def _near(self, aim: float) -> list[tuple[float, int]]:
        return sorted(self.points or [self.forecast], key=lambda point: abs(point[1] - aim))

    def _slope(self, aim: float) -> float:
        """That of the chord between the nearest point and the next one that noise cannot make steep or flat."""
        first, *rest = self._near(aim)
        for point in rest:
            if abs(point[1] - first[1]) > 8 * self.tolerance and point[0] != first[0]:
                chord = (point[1] - first[1]) / (point[0] - first[0])
                return max(min(chord, self.bytes_per_log2 / 4), 2 * self.bytes_per_log2)
        return self.bytes_per_log2


def search_size(
    measure_size: Callable[[float, int], int],
    cap: int,
    model: SizeModel,
    scale_range: tuple[float, float],
    most: int = MAX_PROBES,
) -> FitResult:
    """Try scales of the steps until the file has at most `cap` bytes and is at most 0.05 % under it; the best of `most`
    probes otherwise.

    measure_size: (log2_step_scale, bytes that are predicted) -> bytes; expensive.  scale_range: what may be tried.
    Raises `BitgolfError` where the cap lies outside of the range, with the bytes at its ends.
    """
    aim, least, probes, scale = cap * (1 - TOLERANCE / 2), cap * (1 - TOLERANCE), list[SizeProbe](), 0.0
    finest, coarsest = scale_range
    while len(probes) < most and not (probes and least <= probes[-1].bytes <= cap):
        scale = min(max(model.solve(aim), finest), coarsest)
        if scale in scale_range and any(scale == probe.log2_step_scale for probe in probes):
            break  # it lies beyond the end, where we have been
        predicted = model.predict(scale, aim)
        probes.append(SizeProbe(scale, predicted, measure_size(scale, predicted)))
        model.points.append((scale, probes[-1].bytes))
    under = [probe for probe in probes if probe.bytes <= cap]
    if not under or (len(under) == len(probes) and scale == finest and max(p.bytes for p in under) < least):
        ends = [f"about {model.predict(end, aim):,}" for end in (coarsest, finest)]
        raise BitgolfError(
            f"a file of {cap:,} bytes is out of reach: with the coarsest steps it takes {ends[0]}, with the finest {ends[1]}",
            where="pack",
            hint="a cap between them, other codecs (more bits of IntRows), or another model",
        )
    return FitResult(max(under, key=lambda probe: probe.bytes), tuple(probes))
