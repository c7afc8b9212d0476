"""The codec of least error for its bytes: a trellis within GPTQ, steps by sensitivity, indices coded by what the state allows."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import CorruptFileError, RecipeError, error_location
from bitgolf.grids import log_steps
from bitgolf.grids.trellis import TrellisGrid
from bitgolf.pack.byte_planes import Array
from bitgolf.pack.streams import EncodedTensor
from bitgolf.quantize.codecs.bit_allocation import (
    BitAllocation,
    EqualCost,
    LogSteps,
    RateHistogram,
    local_std,
    rate_histogram,
)
from bitgolf.quantize.codecs.codec import (
    ArraySpecs,
    Codec,
    RuleEncoding,
    Shape,
    largest_first,
    matrix_shape,
    require_finite,
)
from bitgolf.quantize.codecs.gptq import GPTQ, InverseCholesky, RoundBlock, columnwise
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.codecs.viterbi import Floats, round_scalar, viterbi_kernels
from bitgolf.quantize.stats import MatrixStats

TRELLIS_MSE = {1: 0.08333, 4: 0.06626, 8: 0.0649, 16: 0.06399, 32: 0.06304, 64: 0.0624, 128: 0.06175, 256: 0.06128}
"""states -> mean square error at high rate, in squared steps: measured by `bench/rate_distortion.py --errors`."""
MAX_UNSOLVED_INDEX = 96
"""The largest index that a weight may need as it stands; GPTQ adds to it what other columns lost."""


@register
class TrellisCodec(Codec):
    """Indices of a trellis of so many `states` (one: plain rounding) that runs down the rows of each column.

    bits: what a weight of the matrices of this rule costs in the mean, estimated from their spreads; it decides the unit
    of all steps, and `allocation` who gets smaller ones.
    rate: how much the search minds bits; at 1 it gives up error for them at the very price that a finer step would pay: best
    by error alone, but it draws weights towards zero, and a loss that has a slope there feels that (`bench/compression.py`).
    solve: how the columns answer for one another's errors; None rounds each by itself.
    """

    def __init__(
        self,
        *,
        bits: float,
        states: int = 256,
        rate_weight: float = 0.0,
        allocation: Spec[BitAllocation] = part(EqualCost),
        solver: Spec[GPTQ] | None = part(GPTQ),
    ) -> None:
        if not 0 < bits <= 7:
            raise RecipeError(
                f"a weight has more than 0 and at most 7 bits here, not {bits}", where="TrellisCodec.bits"
            )
        if not 0 <= rate_weight <= 2:
            raise RecipeError(f"rate_weight is 0 to 2, not {rate_weight}", where="TrellisCodec.rate_weight")
        self.grid, self.bits, self.rate_weight = TrellisGrid(states), bits, rate_weight
        self.allocation, self.solver = allocation(), (solver or part(GPTQ, order="given"))()
        self.solved = solver is not None

    @property
    def context_coded(self) -> tuple[str, ...]:
        return ("codes",)

    @property
    def needs_calibration(self) -> bool:
        return self.solved or isinstance(self.allocation, EqualCost)

    def array_specs(self, shape: Shape) -> ArraySpecs:
        rows, columns = matrix_shape(shape)
        return {
            "codes": (np.dtype(np.int8), (rows, columns)),
            "rows": (np.dtype(np.uint8), (rows,)),
            "columns": (np.dtype(np.uint8), (columns,)),
            "global_step": (np.dtype(np.float32), (1,)),
        }

    def fit_encode(
        self, weights: Mapping[str, Tensor], stats: Mapping[str, MatrixStats], session: EncodingSession | None = None
    ) -> RuleEncoding:
        """With the one global step at which all matrices together have the bits they may have."""
        session = session or EncodingSession()

        def wanted(path: str) -> RateHistogram:
            with error_location(path):
                w = _matrix(weights[path])
                return rate_histogram([(w, self._factor_and_steps(w, stats.get(path), session)[1])])

        widest = sorted(weights, key=lambda path: -matrix_shape(tuple(weights[path].shape))[1])  # they factor longest
        unit = RateHistogram.sum(session.map(wanted, widest)).solve_global_step(self.bits, self.rate_weight)

        def work(path: str) -> tuple[str, EncodedTensor]:
            with error_location(path):
                return path, self._encoded(weights[path], stats.get(path), session, unit)

        matrices = f"{len(weights)} {'matrix' if len(weights) == 1 else 'matrices'}"
        chosen = f"trellis of {self.grid.states} states, {self.bits:g} bits a weight over {matrices}, compiled by numba"
        return RuleEncoding(session.map(work, largest_first(weights)), chosen)

    def encode(
        self, w: Tensor, stats: MatrixStats | None = None, session: EncodingSession | None = None
    ) -> EncodedTensor:
        """On the CPU, wherever the weights and the Hessian lie; the Hessian is factored where it is."""
        return self._encoded(w, stats, session or EncodingSession())

    def _encoded(
        self, w: Tensor, stats: MatrixStats | None, session: EncodingSession, unit: float | None = None
    ) -> EncodedTensor:
        """unit: log2 of the global step; None is the one at which this matrix alone has its bits."""
        w = _matrix(w)
        factor, steps = self._factor_and_steps(w, stats, session)
        code = _code_header(
            w,
            steps,
            rate_histogram([(w, steps)]).solve_global_step(self.bits, self.rate_weight) if unit is None else unit,
        )
        order, step = _row_order(code), _step_matrix(code)
        shrink = (self.rate_weight * TRELLIS_MSE[self.grid.states] * (step / local_std(w).numpy()) ** 2).astype(
            np.float32
        )
        turns = factor.permutation.numpy()
        shrink, step = (np.ascontiguousarray(x[order][:, turns].T) for x in (shrink, step))
        points = np.empty(step.shape, np.int16)  # (C, R), in the order of their turns
        self.solver.quantize_columns(
            w[torch.from_numpy(order)][None], [factor], self._block_rounding(step, shrink, points)
        )
        code["codes"][:, turns] = points.T >> 1
        return code

    def _factor_and_steps(
        self, w: Tensor, stats: MatrixStats | None, session: EncodingSession
    ) -> tuple[InverseCholesky, LogSteps]:
        stats = stats or session.identity_stats(*w.shape)
        factor = stats.factorize(self.solver).cpu()
        return factor, self.allocation.log_steps(
            w, stats._replace(output_fisher=stats.output_fisher.cpu()), _column_sensitivity(factor)
        )

    def _block_rounding(self, step: Floats, shrink: Floats, points: NDArray[np.int16]) -> RoundBlock:
        """Rounds the columns of one matrix to the trellis's points, which it writes."""
        if self.grid.states == 1:

            def column(turn: int, column: Tensor) -> Tensor:
                points[turn] = round_scalar(column[0].numpy() / step[turn], shrink[turn])
                return torch.from_numpy(np.float32(0.5) * points[turn] * step[turn])[None]

            return columnwise(column)

        def block(start: int, block: Tensor, upper: Tensor) -> Tensor:
            own, (search, round_columns) = slice(start, start + block.shape[1]), viterbi_kernels()
            machine = self.grid.previous_state
            round_columns(search, block[0].numpy(), upper[0].numpy(), step[own], shrink[own], machine, points[own])
            return torch.from_numpy(np.float32(0.5) * points[own] * step[own])[None]

        return block

    def decode(self, code: EncodedTensor, shape: Shape) -> Tensor:
        self.check_layout(code, shape)
        if not (np.isfinite(code["global_step"]).all() and (code["global_step"] > 0).all()):
            raise CorruptFileError("the unit of the steps is none")
        points = 2 * code["codes"].astype(np.int16) + self.grid.half_offsets(code["codes"])
        w, order = np.empty(points.shape, np.float32), _row_order(code)
        with np.errstate(over="ignore", invalid="ignore"):
            w[order] = np.float32(0.5) * points * _step_matrix(code)[order]
        if not np.isfinite(w).all():
            raise CorruptFileError("a step is beyond float32")
        return torch.from_numpy(w).reshape(shape)

    def context_model(self, name: str, shape: Shape) -> TrellisContext:
        return TrellisContext(self.grid, matrix_shape(shape)[1])


class TrellisContext:
    """A walk down the rows: where each column's machine stands, and so which half of the points may follow."""

    def __init__(self, grid: TrellisGrid, columns: int) -> None:
        self.grid, self.state = grid, np.zeros(columns, np.uint8)
        self.context_count = min(grid.states, 2)

    def next_row(self) -> NDArray[np.uint8]:
        return self.state & np.uint8(1)

    def update(self, row: Array) -> None:
        self.state = self.grid.next_state[self.state, row & 1]


def _code_header(w: Tensor, steps: LogSteps, unit: float) -> EncodedTensor:
    """A code without its indices. No step is so small that an index would not fit its byte: columns give way where most
    of their rows ask for it, and rows for what is left."""
    sizes = np.log2(np.abs(w.numpy()).clip(1e-30)) - math.log2(MAX_UNSOLVED_INDEX) - unit - steps.rows.numpy()[:, None]
    columns = np.maximum(steps.columns.numpy(), np.median(sizes, 0))
    column_codes, column_least = log_steps.encode_log_steps(columns)
    over = (sizes - column_least - np.log2(log_steps.decode_log_steps(column_codes))).max(1)
    row_codes, row_least = log_steps.encode_log_steps(steps.rows.numpy() + np.maximum(over, 0))
    return {
        "codes": np.empty(tuple(w.shape), np.int8),
        "rows": row_codes,
        "columns": column_codes,
        "global_step": np.array([2.0 ** (unit + row_least + column_least)], np.float32),
    }


def _row_order(code: EncodedTensor) -> NDArray[np.intp]:
    """The rows as the trellis goes through them: small steps first. Where rows of few bits and of many took turns, the
    former would often stand at a point between steps, which costs them a bit that they have not."""
    return np.argsort(code["rows"], kind="stable")


def _step_matrix(code: EncodedTensor) -> NDArray[np.float32]:
    """(rows, columns), the same float32 for reader and writer."""
    return (code["global_step"] * log_steps.decode_log_steps(code["rows"]))[:, None] * log_steps.decode_log_steps(
        code["columns"]
    )


def _column_sensitivity(factor: InverseCholesky) -> Tensor:
    """(C,) what an error of 1 costs, by column of the matrix, once the columns after it have answered; dead ones nothing."""
    pivots = torch.empty(len(factor.permutation))
    pivots[factor.permutation] = factor.upper.diagonal().double().pow(-2).float().where(~factor.dead, 0.0)
    return pivots


def _matrix(w: Tensor) -> Tensor:
    return require_finite(w.detach().float().cpu().reshape(matrix_shape(tuple(w.shape))), "a weight is not finite")
