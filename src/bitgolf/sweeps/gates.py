"""Gates: reasons to end a run early, decided from the events of its log."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from bitgolf.config.ranges import Fraction, NonNegative, Positive, TokenCount
from bitgolf.config.registry import register
from bitgolf.errors import UsageError
from bitgolf.significance.planning import noise_floor
from bitgolf.sweeps.held_out import averaged_bpb


class CurvePoint(NamedTuple):
    """Bits per byte of held-out text at a step of training. seconds: on the training clock."""

    step: int
    seconds: float
    bpb: float


Curve = tuple[CurvePoint, ...]


class GatedRun(NamedTuple):
    """What a gate knows besides the events. folder: of the run. references: finished runs, a group for each variant."""

    folder: Path
    references: tuple[tuple[Curve, ...], ...] = ()


class Gate(ABC):
    """Ends runs that are not worth finishing. compares: whether it needs the results of earlier runs."""

    compares = False

    @abstractmethod
    def reason(self, event: Mapping[str, Any], run: GatedRun) -> str:
        """Why the run should end after this event of its log, in words; "" if it should go on."""


@register
class LossNotFinite(Gate):
    """The loss, a weight or the state of the optimizer is NaN or infinite."""

    def reason(self, event: Mapping[str, Any], run: GatedRun) -> str:
        return f"diverged: {event.get('message', '')}" if event["event"] == "diverged" else ""


@register
class OverCap(Gate):
    """The artifact is over the cap, or its forecast is before training.

    forecast_error: share of the cap by which the forecast may be above it.
    """

    def __init__(self, *, forecast_error: Fraction = 0.13) -> None:
        self.forecast_error = forecast_error

    def reason(self, event: Mapping[str, Any], run: GatedRun) -> str:
        kind = event["event"]
        if kind not in ("forecast", "over_cap"):
            return ""
        size, cap = event["bytes"], event["cap"]
        if size <= cap * (1 + (self.forecast_error if kind == "forecast" else 0.0)):
            return ""
        what = "the artifact is forecast to have" if kind == "forecast" else "the artifact has"
        return f"{what} {size:,} bytes, over the cap of {cap:,}"


@register
class TrainedBpbAbove(Gate):
    """Bits per byte of the averaged weights, before quantization, are above a limit.

    limit: bits per byte. tokens: held-out tokens to measure on.
    """

    def __init__(self, *, limit: Positive, tokens: TokenCount = 65_536) -> None:
        self.limit, self.tokens = limit, tokens

    def reason(self, event: Mapping[str, Any], run: GatedRun) -> str:
        if (event["event"], event.get("stage")) not in (("stage_done", "average"), ("taken_over", "average")):
            return ""
        bpb = averaged_bpb(run.folder, self.tokens)
        return "" if bpb <= self.limit else f"{bpb:.4f} bpb before quantization, above {self.limit:g}"


@register
class BehindBest(Gate):
    """Held-out bits per byte during training are worse than those of the best earlier variant by more than the noise.

    margin: bits per byte; 0 measures the noise: `deviations` standard deviations between seeds at the same point, pooled
    over the variants that have several. Without such a variant the gate stays open. by: what "the same point" is: the
    step, or the seconds of the training clock. after: share of the reference's training before which no run is ended.
    """

    compares = True

    def __init__(
        self,
        *,
        margin: NonNegative = 0.0,
        deviations: Positive = 3.0,
        by: Literal["step", "seconds"] = "step",
        after: Fraction = 0.2,
    ) -> None:
        self.margin, self.deviations, self.by, self.after = margin, deviations, by, after

    def reason(self, event: Mapping[str, Any], run: GatedRun) -> str:
        if event["event"] != "validation":
            return ""
        now = CurvePoint(event["step"], event["training_seconds"], event["bpb"])
        groups = [[bpb for curve in group if (bpb := self._at(curve, now)) is not None] for group in run.references]
        groups = [group for group in groups if group]
        margin = self._margin(groups)
        if not groups or margin is None:
            return ""
        best = min(map(fmean, groups))
        if now.bpb <= best + margin:
            return ""
        point = f"step {now.step:,}" if self.by == "step" else f"{now.seconds:.1f} s"
        return f"{now.bpb:.4f} bpb at {point}, {now.bpb - best:.4f} behind the best (margin {margin:.4f})"

    def _margin(self, groups: Sequence[Sequence[float]]) -> float | None:
        """Bits per byte; None if the noise is not known."""
        if self.margin:
            return self.margin
        try:
            return self.deviations * noise_floor(groups).deviation
        except UsageError:
            return None

    def _at(self, curve: Curve, now: CurvePoint) -> float | None:
        """The value of a curve at the same point, between its neighbours on a line; None outside of it."""
        at = float(getattr(now, self.by))
        places = [float(getattr(point, self.by)) for point in curve]
        if not places or at < self.after * places[-1] or not places[0] <= at <= places[-1]:
            return None
        i = next(i for i, place in enumerate(places) if place >= at)
        if places[i] == at:
            return curve[i].bpb
        share = (at - places[i - 1]) / (places[i] - places[i - 1])
        value = curve[i - 1].bpb + share * (curve[i].bpb - curve[i - 1].bpb)
        return value if math.isfinite(value) else None
