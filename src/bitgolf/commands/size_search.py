"""Search for step sizes that make an artifact just fit a byte cap: the steps of all codecs are scaled by one factor.

The factor is given as its base-2 logarithm, `log2_step_scale`: 0 means the recipe's steps, -1 halves them. Halving adds
about one bit per weight, so the size is nearly linear in `log2_step_scale`, and two or three encodings reach the cap.
The rest is noise: a slightly different step rounds many weights differently, and the size jumps by a few bytes. Where
the tolerance is smaller than these jumps (files of about ten kilobytes, which encode quickly), more scales are tried.
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

TOLERANCE = 5e-4  # share of the cap by which the file may be smaller
MAX_PROBES = 40  # reached only if the tolerance is smaller than the noise
MIN_SIZE_JUMP = 16  # bytes by which the smallest files change at once
MIN_BITS, MAX_BITS = 0.25, 7.0  # per weight: below, a model is useless; above, an index does not fit its byte
MIN_CLIP = 4.0  # standard deviations: below, the largest weights saturate
MAX_STEP = math.sqrt(2 * math.pi * math.e / (2 ** (2 * MIN_BITS) - 1))
"""Step in standard deviations at which a Gaussian takes `MIN_BITS` bits."""


class SizeProbe(NamedTuple):
    """A scale of the steps that was tried, the bytes predicted before, and the bytes measured."""

    log2_step_scale: float
    predicted_bytes: int
    bytes: int


class FitResult(NamedTuple):
    """All probes in order, and the largest one within the cap."""

    best: SizeProbe
    probes: tuple[SizeProbe, ...]


# ---- the settings --------------------------------------------------------------------------------------------------


def scale_steps(rules: Rules, log2_scale: float) -> tuple[Spec[Rule[Codec]], ...]:
    """The rules with all steps multiplied by 2 ** log2_scale.

    `TrellisCodec.bits`, a mean over its matrices, falls by `log2_scale`; `SdClip.k` is multiplied, with the same number
    of grid points. Codecs without these settings are unchanged. Raises `RecipeError` outside of `scale_range`.
    """
    low, high = scale_range(rules)
    if not low <= log2_scale <= high:
        raise RecipeError(
            f"steps can be scaled by 2^{low:+.2f} to 2^{high:+.2f}, not by 2^{log2_scale:+.2f}",
            where="quantize",
            hint="choose a scale in this range, or other bits or clips in the recipe",
        )
    for cls, change in (
        (TrellisCodec, lambda node: node.replace(bits=_round(node["bits"] - log2_scale))),
        (SdClip, lambda node: node.replace(k=_round(node["k"] * 2.0**log2_scale))),
    ):
        rules = [_edited(rule, cls, change) for rule in rules]
    return tuple(rules)


def scale_range(rules: Rules) -> tuple[float, float]:
    """(log2 of the smallest, log2 of the largest factor by which all steps can be scaled), at most 0 and at least 0.

    Finest steps: 7 bits per weight for `TrellisCodec`; clips at 4 standard deviations, since closer ones cut weights
    off. Coarsest steps: 0.25 bits per weight. Raises `RecipeError` if no codec has a continuous setting.
    """
    ranges = [own for rule in rules for own in _ranges(rule)]
    if not ranges:
        raise RecipeError(
            f"no codec of the {len(rules)} rules has a continuous setting, so the size cannot be adjusted",
            where="quantize",
            hint="use TrellisCodec(bits=...) or IntRows(clip=SdClip(k=...)) in a rule",
        )
    return min(0.0, max(low for low, _ in ranges)), max(0.0, min(high for _, high in ranges))


def bytes_per_log2(rules: Rules, roles: Roles, sizes: Mapping[str, int]) -> float:
    """Approximate change in bytes when steps double: minus one bit for each weight of a codec that is scaled.

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
    """`Spec.edit`, but without an error if no node matches or changes."""
    return rule.edit(cls, change) if any(_is(n, cls) and change(n) != n for _, n in rule.walk()) else rule


def _round(x: float) -> float:
    """Round to 7 digits, to keep the header short: a step changes by a millionth, 36 million weights by a few bytes."""
    return float(f"{x:.7g}")


# ---- the search ----------------------------------------------------------------------------------------------------


class SizeModel:
    """Model of the bytes of the file as a function of `log2_step_scale`, from a forecast and measurements.

    bytes_per_log2: approximate change in bytes when steps double (negative). tolerance: bytes that do not matter.
    forecast: bytes at scale 0, used until a point is measured. points: measured (log2_step_scale, bytes).
    """

    def __init__(self, bytes_per_log2: float, tolerance: float, forecast: int = 0) -> None:
        self.bytes_per_log2, self.tolerance, self.forecast = bytes_per_log2, tolerance, (0.0, forecast)
        self.points: list[tuple[float, int]] = []

    def predict(self, log2_step_scale: float, aim: float) -> int:
        """Predicted bytes at a scale, at least 0, extrapolated from the point whose size is nearest to `aim` bytes."""
        (near, size), *_ = self._near(aim)
        return max(0, round(size + self._slope(aim) * (log2_step_scale - near)))

    def solve(self, aim: float) -> float:
        """The scale at which `aim` bytes are expected: the mean of the extrapolations from the last points near it."""
        width = max(self.tolerance, MIN_SIZE_JUMP * (1 + len(self.points) / 20))
        close = [point for point in self.points if abs(point[1] - aim) < 4 * width][-4:] or self._near(aim)[:1]
        found = sum(scale + (aim - size) / self._slope(aim) for scale, size in close) / len(close)
        # With several points within the noise, spread the probes evenly around the aim (golden-ratio sequence).
        offset = (len(self.points) * 0.618 % 1 - 0.5) if len(close) > 1 else 0.0
        return found + 0.8 * offset * width / self.bytes_per_log2

    def _near(self, aim: float) -> list[tuple[float, int]]:
        return sorted(self.points or [self.forecast], key=lambda point: abs(point[1] - aim))

    def _slope(self, aim: float) -> float:
        """Bytes per unit of log2_step_scale: slope from the nearest point to the next one beyond the noise."""
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
    """Try scales until the file has at most `cap` bytes and is at most 0.05 % smaller.

    If that does not succeed within `most` probes, or the file with the finest steps is smaller, the result is the
    largest file within the cap.
    measure_size: (log2_step_scale, predicted bytes) -> bytes; expensive. scale_range: range of log2_step_scale.
    Raises `BitgolfError` with the bytes of the smallest file if all are above the cap.
    """
    aim, least, probes, scale = cap * (1 - TOLERANCE / 2), cap * (1 - TOLERANCE), list[SizeProbe](), 0.0
    finest, coarsest = scale_range
    while len(probes) < most and not (probes and least <= probes[-1].bytes <= cap):
        scale = min(max(model.solve(aim), finest), coarsest)
        if scale in scale_range and any(scale == probe.log2_step_scale for probe in probes):
            break  # the cap is beyond this end of the range, which was measured already
        predicted = model.predict(scale, aim)
        probes.append(SizeProbe(scale, predicted, measure_size(scale, predicted)))
        model.points.append((scale, probes[-1].bytes))
    under = [probe for probe in probes if probe.bytes <= cap]
    if not under:
        smallest = min(probe.bytes for probe in probes)
        raise BitgolfError(
            f"a cap of {cap:,} bytes is out of reach: with the coarsest steps, the artifact has {smallest:,} bytes",
            where="--cap or pack.cap",
            hint=f"choose a cap of at least {smallest:,} bytes, or a smaller model",
        )
    return FitResult(max(under, key=lambda probe: probe.bytes), tuple(probes))
