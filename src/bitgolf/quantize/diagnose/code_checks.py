"""What codes tell: ranges too small, steps too large, bits in the wrong place. One small function for each alarm.

At high rate a bit more for each weight of a matrix divides its cost by four, so under a budget every matrix should have
the same cost a weight (spec, 16.5): who has more wants bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from bitgolf.grids.scales import LogScale
from bitgolf.quantize.codecs.codec import matrix_shape
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.diagnose.quantized_model import Check, QuantizationFinding, QuantizedModel, first_and_count

MAX_SHARE_AT_MINIMUM_STEP = 0.1  # a larger share of rows at the smallest step is worth a word
MAX_SAVABLE_COST = 0.25  # the same for the share of the cost that other bits would save, which is a rough guess where there are few bits
ZEROED_ROW_COST_RATIO = 4.0  # times the mean cost of a weight: a row of zeros may cost that much
MAX_BIT_CHANGE = 3.0  # bits a weight that `optimal_reallocation` moves at most


def saturated(p: QuantizedModel) -> Iterator[QuantizationFinding]:
    """More weights beyond the ends of a range than one of its levels would hold, were all levels alike."""
    shares = {path: _clipped_share(p, path) for path in p.encoded}
    if wrong := sorted((path for path, (share, levels) in shares.items() if share > 1 / levels), key=lambda path: -shares[path][0]):  # fmt: skip
        share, levels = shares[wrong[0]]
        yield QuantizationFinding("saturated", "warning", f"{share:.1%} of the weights lie beyond the last of {levels} levels", first_and_count(wrong), "a wider clip, or more bits")  # fmt: skip


def _clipped_share(p: QuantizedModel, path: str) -> tuple[float, int]:
    """Share of weights more than half a step beyond the grid, and its levels."""
    if found := p.codecs[path].int_grid_and_steps(p.encoded[path]):
        grid, steps = found
        levels = (grid.qmax - grid.qmin) // grid.multiple + 1
        in_steps = p.weights[path].reshape(len(steps), -1) / steps[:, None]
        beyond = (in_steps > grid.qmax + grid.multiple / 2) | (in_steps < grid.qmin - grid.multiple / 2)
        return float(beyond.float().mean()), levels
    if isinstance(p.codecs[path], TrellisCodec):
        codes = p.encoded[path]["codes"]
        return float(((codes == -128) | (codes == 127)).mean()), 256
    return 0.0, 1


def rows_at_minimum_step(p: QuantizedModel) -> Iterator[QuantizationFinding]:
    """Spec, 1.1: rows share the smallest step, whatever their clip, and a rule for clips does nothing."""
    shares = {path: _share_at_minimum_step(p, path) for path in p.encoded}
    if wrong := sorted(
        (path for path in shares if shares[path] > MAX_SHARE_AT_MINIMUM_STEP), key=lambda path: -shares[path]
    ):
        yield QuantizationFinding("floor", "warning", f"{shares[wrong[0]]:.0%} of the rows have the smallest step there is, whatever their clip", first_and_count(wrong), "a smaller floor")  # fmt: skip


def _share_at_minimum_step(p: QuantizedModel, path: str) -> float:
    if not (found := p.codecs[path].int_grid_and_steps(p.encoded[path])):
        return 0.0
    grid, steps = found
    used = p.weights[path].reshape(len(steps), -1).abs().amax(1) > 0
    return float((steps <= grid.steps(torch.zeros(1)))[used].float().mean()) if used.any() else 0.0


def rows_rounded_to_zero(p: QuantizedModel) -> Iterator[QuantizationFinding]:
    """Rows of zeros, but for those that are worth no bits: at the best spending they cost less than others do."""
    lost = {path: count for path in p.weights if (count := _zeroed_rows(p, path))}
    if lost:
        wrong = sorted(lost, key=lambda path: -lost[path])
        rows = matrix_shape(tuple(p.weights[wrong[0]].shape))[0]
        yield QuantizationFinding(
            "lost-rows",
            "warning",
            f"{lost[wrong[0]]:,} of {rows:,} rows that matter are rounded wholly to zero",
            first_and_count(wrong),
            "smaller steps there, or more bits",
        )


def _zeroed_rows(p: QuantizedModel, path: str) -> int:
    shape = matrix_shape(tuple(p.weights[path].shape))
    gone = (p.decoded[path].reshape(shape) == 0).all(1) & (p.weights[path].reshape(shape) != 0).any(1)
    costs = p.row_costs(path) if gone.any() else None
    if costs is not None:
        all_costs = p.costs()
        mean = sum(all_costs.values()) / sum(p.weights[known].numel() for known in all_costs)
        gone &= costs > ZEROED_ROW_COST_RATIO * mean * shape[1]
    return int(gone.sum())


def scales_at_maximum(p: QuantizedModel) -> Iterator[QuantizationFinding]:
    """Of a logarithmic code: what would lie beyond it was cut off."""
    ends: list[str] = []
    for path, code in p.encoded.items():
        found = p.codecs[path].int_grid_and_steps(code)
        logarithmic = ["scales"] if found and isinstance(found[0].scales, LogScale) else []
        logarithmic = ["rows", "columns"] if isinstance(p.codecs[path], TrellisCodec) else logarithmic
        ends += [f"{path}:{name}" for name in logarithmic if (code[name] == np.iinfo(np.uint8).max).any()]
    if ends:
        yield QuantizationFinding("scale-range", "warning", "a step is stored as the largest that its code has", first_and_count(ends), "scales of more octaves, or a look at a row that is far larger than the rest")  # fmt: skip


def suboptimal_allocation(p: QuantizedModel) -> Iterator[QuantizationFinding]:
    """Bits elsewhere would save a good part of the cost (see the module)."""
    moves, saved = optimal_reallocation(p)
    if saved <= MAX_SAVABLE_COST:
        return
    spent = {r.path: r.elements * r.bits_per_weight for r in p.reports if r.path in moves}
    costs, bits, cost = p.costs(), sum(spent.values()), sum(p.costs().values())

    def words(path: str) -> str:
        return f"{path} ({costs[path] / cost:.0%} of the cost in {spent[path] / bits:.0%} of the bits: {moves[path]:+.1f} bits a weight)"

    feed = sorted((path for path in moves if moves[path] > 0.25), key=lambda path: -moves[path] * costs[path])
    starve = sorted((path for path in moves if moves[path] < -0.25), key=lambda path: moves[path] * spent[path])
    message = f"as many bits spent evenly by cost would save about {saved:.0%} of it; feed " + ", ".join(
        map(words, feed[:3])
    )
    message += "; starve " + ", ".join(map(words, starve[:3])) if starve else ""
    place = next(iter(feed or starve), "quantize")
    yield QuantizationFinding(
        "uneven-spending",
        "warning",
        message,
        place,
        "rules of their own with other bits, or Trellis, which spends them by cost",
    )


def optimal_reallocation(p: QuantizedModel) -> tuple[dict[str, float], float]:
    """path -> bits a weight that it should get, none in all, and the share of the predicted cost that this would save.

    A matrix gains or loses at most three bits, and keeps none below zero.
    """
    costs = {path: cost for path, cost in p.costs().items() if cost > 0}
    rows = [r for r in p.reports if r.path in costs]
    if not rows:
        return {}, 0.0
    cost, n = np.array([costs[r.path] for r in rows]), np.array([float(r.elements) for r in rows])
    least, wanted = -np.array([min(MAX_BIT_CHANGE, r.bits_per_weight) for r in rows]), np.log2(cost / n) / 2
    low, high = float(wanted.min()) - MAX_BIT_CHANGE, float(wanted.max()) + MAX_BIT_CHANGE
    for _ in range(60):
        level = (low + high) / 2
        low, high = (level, high) if (n * np.clip(wanted - level, least, MAX_BIT_CHANGE)).sum() > 0 else (low, level)
    moves = np.clip(wanted - low, least, MAX_BIT_CHANGE)
    saved = 1 - float((cost * 4.0**-moves).sum() / cost.sum())
    return {r.path: float(m) for r, m in zip(rows, moves, strict=True)}, saved


def artifact_mismatch(decoded: Mapping[str, Tensor], reloaded: Mapping[str, Tensor]) -> Iterator[QuantizationFinding]:
    """An artifact that holds other weights than the codes in the run folder."""
    wrong = sorted(decoded.keys() ^ reloaded.keys())
    wrong += [path for path in decoded.keys() & reloaded.keys() if not torch.equal(decoded[path], reloaded[path].cpu())]
    if wrong:
        yield QuantizationFinding(
            "not-as-packed",
            "error",
            "the artifact, read back, is not what the codes decode to",
            first_and_count(sorted(wrong)),
            "--from pack",
        )


CHECKS: tuple[Check, ...] = (
    saturated,
    rows_at_minimum_step,
    rows_rounded_to_zero,
    scales_at_maximum,
    suboptimal_allocation,
)
