"""Checks on encoded matrices: clipped weights, steps at their limits, uneven bit allocation. One function per finding.

At high rate, one extra bit per weight divides the quantization error by four, so an optimal allocation gives every
matrix the same cost per weight (Shoham and Gersho, 1988). A matrix whose cost per weight is above the mean should get
more bits. The cost is the predicted increase of the loss in nats per token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from bitgolf.grids.scales import LogScale
from bitgolf.grids.trellis import MAX_INDEX, MIN_INDEX
from bitgolf.quantize.codecs.codec import matrix_shape
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.diagnose.quantized_model import Check, QuantizationFinding, QuantizedModel, first_and_count

MAX_SHARE_AT_MINIMUM_STEP = 0.1  # a larger share of rows at the minimum step is reported
MAX_SAVABLE_COST = (
    0.25  # a larger share of the cost that another allocation would save is reported; a rough estimate at low rates
)
ZEROED_ROW_COST_RATIO = 4.0  # a zeroed row with a higher cost per weight, relative to the mean, is reported
MAX_BIT_CHANGE = 3.0  # largest change by `optimal_reallocation`, in bits per weight


def saturated(p: QuantizedModel) -> Iterator[QuantizationFinding]:
    """More clipped weights than one level would hold if all levels were equally frequent."""
    shares = {path: _clipped_share(p, path) for path in p.encoded}
    if wrong := sorted((path for path, (share, levels) in shares.items() if share > 1 / levels), key=lambda path: -shares[path][0]):  # fmt: skip
        share, levels = shares[wrong[0]]
        yield QuantizationFinding("saturated", "warning", f"{share:.1%} of the weights are clipped at the ends of {levels} levels", first_and_count(wrong), "use a wider clip, or more bits")  # fmt: skip


def _clipped_share(p: QuantizedModel, path: str) -> tuple[float, int]:
    """Share of weights more than half a step outside the grid, and the number of levels of the grid."""
    if found := p.codecs[path].int_grid_and_steps(p.encoded[path]):
        grid, steps = found
        levels = (grid.qmax - grid.qmin) // grid.multiple + 1
        in_steps = p.weights[path].reshape(len(steps), -1) / steps[:, None]
        beyond = (in_steps > grid.qmax + grid.multiple / 2) | (in_steps < grid.qmin - grid.multiple / 2)
        return float(beyond.float().mean()), levels
    if isinstance(p.codecs[path], TrellisCodec):
        codes = p.encoded[path]["codes"]
        return float(((codes == MIN_INDEX) | (codes == MAX_INDEX)).mean()), MAX_INDEX - MIN_INDEX + 1
    return 0.0, 1


def rows_at_minimum_step(p: QuantizedModel) -> Iterator[QuantizationFinding]:
    """Many rows at the minimum step of the grid, where the clip rule has no effect.

    In openai/parameter-golf, pull requests 265 to 1285, this was the case for all rows (step 1/31).
    """
    shares = {path: _share_at_minimum_step(p, path) for path in p.encoded}
    if wrong := sorted(
        (path for path in shares if shares[path] > MAX_SHARE_AT_MINIMUM_STEP), key=lambda path: -shares[path]
    ):
        yield QuantizationFinding("floor", "warning", f"{shares[wrong[0]]:.0%} of the rows have the minimum step, so that their clip has no effect", first_and_count(wrong), "use a smaller min_step")  # fmt: skip


def _share_at_minimum_step(p: QuantizedModel, path: str) -> float:
    if not (found := p.codecs[path].int_grid_and_steps(p.encoded[path])):
        return 0.0
    grid, steps = found
    used = p.weights[path].reshape(len(steps), -1).abs().amax(1) > 0
    return float((steps <= grid.steps(torch.zeros(1)))[used].float().mean()) if used.any() else 0.0


def rows_rounded_to_zero(p: QuantizedModel) -> Iterator[QuantizationFinding]:
    """Nonzero rows that decode to zeros, except rows of low cost, to which an optimal allocation gives no bits."""
    lost = {path: count for path in p.weights if (count := _zeroed_rows(p, path))}
    if lost:
        wrong = sorted(lost, key=lambda path: -lost[path])
        rows = matrix_shape(tuple(p.weights[wrong[0]].shape))[0]
        yield QuantizationFinding(
            "lost-rows",
            "warning",
            f"{lost[wrong[0]]:,} of {rows:,} rows are rounded entirely to zero",
            first_and_count(wrong),
            "use smaller steps for this tensor, or more bits",
        )


def _zeroed_rows(p: QuantizedModel, path: str) -> int:
    """Number of nonzero rows that decode to zeros, without those of low cost if costs are known."""
    shape = matrix_shape(tuple(p.weights[path].shape))
    gone = (p.decoded[path].reshape(shape) == 0).all(1) & (p.weights[path].reshape(shape) != 0).any(1)
    costs = p.row_costs(path) if gone.any() else None
    if costs is not None:
        all_costs = p.costs()
        mean = sum(all_costs.values()) / sum(p.weights[known].numel() for known in all_costs)
        gone &= costs > ZEROED_ROW_COST_RATIO * mean * shape[1]
    return int(gone.sum())


def scales_at_maximum(p: QuantizedModel) -> Iterator[QuantizationFinding]:
    """Steps at the largest code of a logarithmic format, where larger steps are clamped."""
    ends: list[str] = []
    for path, code in p.encoded.items():
        found = p.codecs[path].int_grid_and_steps(code)
        logarithmic = ["scales"] if found and isinstance(found[0].scales, LogScale) else []
        logarithmic = ["rows", "columns"] if isinstance(p.codecs[path], TrellisCodec) else logarithmic
        ends += [f"{path}:{name}" for name in logarithmic if (code[name] == np.iinfo(np.uint8).max).any()]
    if ends:
        yield QuantizationFinding("scale-range", "warning", "a step has the largest value of its format, and may have been clamped to it", first_and_count(ends), "use scales of wider range (LogScale: fewer steps_per_doubling), or check why one row is far larger than the others")  # fmt: skip


def suboptimal_allocation(p: QuantizedModel) -> Iterator[QuantizationFinding]:
    """Another allocation of the same bits would lower the predicted cost considerably (see the module)."""
    moves, saved = optimal_reallocation(p)
    if saved <= MAX_SAVABLE_COST:
        return
    spent = {r.path: r.elements * r.bits_per_weight for r in p.reports if r.path in moves}
    costs, bits, cost = p.costs(), sum(spent.values()), sum(p.costs().values())

    def describe(path: str) -> str:
        shares = f"{costs[path] / cost:.0%} of the cost, {spent[path] / bits:.0%} of the bits"
        return f"{path} ({shares}: {moves[path]:+.1f} bits per weight)"

    more = sorted((path for path in moves if moves[path] > 0.25), key=lambda path: -moves[path] * costs[path])
    fewer = sorted((path for path in moves if moves[path] < -0.25), key=lambda path: moves[path] * spent[path])
    message = f"another allocation of the same bits would lower the predicted cost by about {saved:.0%}"
    message += "; more bits for " + ", ".join(map(describe, more[:3])) if more else ""
    message += "; fewer bits for " + ", ".join(map(describe, fewer[:3])) if fewer else ""
    where = next(iter(more or fewer), "quantize")
    yield QuantizationFinding(
        "uneven-spending",
        "warning",
        message,
        where,
        "give these tensors rules of their own with other bits, or use TrellisCodec, which allocates bits by cost",
    )


def optimal_reallocation(p: QuantizedModel) -> tuple[dict[str, float], float]:
    """Path -> change in bits per weight (the total number of bits stays), and the share of the predicted cost it saves.

    The change is limited to `MAX_BIT_CHANGE` in either direction, and no matrix gets fewer than 0 bits.
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
    """Tensors that the artifact decodes to other values than the codes in the run folder.

    decoded: from the codes.  reloaded: from the artifact. Both map paths to tensors.
    """
    wrong = sorted(decoded.keys() ^ reloaded.keys())
    wrong += [path for path in decoded.keys() & reloaded.keys() if not torch.equal(decoded[path], reloaded[path].cpu())]
    if wrong:
        yield QuantizationFinding(
            "not-as-packed",
            "error",
            "the artifact and the codes in the run folder decode to different weights",
            first_and_count(sorted(wrong)),
            "run again with --from pack",
        )


CHECKS: tuple[Check, ...] = (
    saturated,
    rows_at_minimum_step,
    rows_rounded_to_zero,
    scales_at_maximum,
    suboptimal_allocation,
)
