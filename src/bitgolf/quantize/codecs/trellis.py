"""Trellis-coded quantization with GPTQ feedback, steps by sensitivity, and entropy coding conditioned on the state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgolf.config.ranges import Range
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
from bitgolf.quantize.codecs.viterbi import (
    MAX_VECTORIZED_STATES,
    Floats,
    round_scalar,
    search_columns,
    viterbi_kernels,
)
from bitgolf.quantize.stats import MatrixStats

TRELLIS_MSE = {1: 0.08333, 4: 0.06626, 8: 0.0649, 16: 0.06399, 32: 0.06304, 64: 0.0624, 128: 0.06175, 256: 0.06128}
"""Number of states -> mean squared error at high rate, in squared steps, by `bench/rate_distortion.py --errors`."""
MAX_UNSOLVED_INDEX = 96
"""Largest index that an unmodified weight may need; the rest of the int8 range is headroom for error feedback."""

MAX_STEP_RATIO = 1e15
"""Largest step in standard deviations of a weight, for matrices of zeros, so that its square is a float32."""


@register
class TrellisCodec(Codec):
    """Trellis-coded quantization: the rows of each column are one sequence through a trellis of `states` states.

    bits: mean bits per weight over the matrices of the rule, estimated from their standard deviations. It determines
    the global step; `allocation` determines the relative steps.
    states: 1 is scalar rounding.
    rate_weight: weight of the bit cost in the Viterbi search (lambda of the rate-distortion objective); 0 minimizes
    distortion alone. 1 trades error for bits at the same rate as the global step does, which minimizes the error for
    given bytes, but biases weights towards zero. That bias can raise the loss (`bench/compression.py`).
    solver: GPTQ error feedback between columns; None quantizes each column independently.
    """

    def __init__(
        self,
        *,
        bits: Annotated[float, Range(0, 7, above=True)],
        states: Annotated[int, Range(1, 256)] = 256,
        rate_weight: Annotated[float, Range(0, 2)] = 0.0,
        allocation: Spec[BitAllocation] = part(EqualCost),
        solver: Spec[GPTQ] | None = part(GPTQ),
    ) -> None:
        if not 0 < bits <= 7:
            raise RecipeError(f"bits must be above 0 and at most 7 per weight, got {bits}", where="TrellisCodec.bits")
        if not 0 <= rate_weight <= 2:
            raise RecipeError(f"rate_weight must be 0 to 2, got {rate_weight}", where="TrellisCodec.rate_weight")
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
        """Encode with one global step, at which all matrices of the rule together average `bits` bits per weight."""
        session = session or EncodingSession()

        def histogram(path: str) -> RateHistogram:
            with error_location(path):
                w = _matrix(weights[path])
                return rate_histogram([(w, self._factor_and_steps(w, stats.get(path), session)[1])])

        widest = sorted(weights, key=lambda path: -matrix_shape(tuple(weights[path].shape))[1])  # slowest to factorize
        total = RateHistogram.sum(session.map(histogram, widest))
        log2_step = total.solve_global_step(self.bits, self.rate_weight)

        def work(path: str) -> tuple[str, EncodedTensor]:
            with error_location(path):
                return path, self._encoded(weights[path], stats.get(path), session, log2_step)

        matrices = f"{len(weights)} {'matrix' if len(weights) == 1 else 'matrices'}"
        summary = (
            f"trellis of {self.grid.states} states, {self.bits:g} bits per weight over {matrices}, compiled by numba"
        )
        return RuleEncoding(session.map(work, largest_first(weights)), summary)

    def encode(
        self, w: Tensor, stats: MatrixStats | None = None, session: EncodingSession | None = None
    ) -> EncodedTensor:
        """The code of `w`. Runs on the CPU, except for the factorization, which runs on the device of the Hessian."""
        return self._encoded(w, stats, session or EncodingSession())

    def _encoded(
        self, w: Tensor, stats: MatrixStats | None, session: EncodingSession, log2_step: float | None = None
    ) -> EncodedTensor:
        """log2_step: log2 of the global step; None solves for the step at which this matrix alone averages `bits`."""
        w = _matrix(w)
        factor, steps = self._factor_and_steps(w, stats, session)
        if log2_step is None:
            log2_step = rate_histogram([(w, steps)]).solve_global_step(self.bits, self.rate_weight)
        code = _code_header(w, steps, log2_step)
        order, step = _row_order(code), _step_matrix(code)
        ratio = np.minimum(step / local_std(w).numpy(), MAX_STEP_RATIO)
        shrink = (self.rate_weight * TRELLIS_MSE[self.grid.states] * ratio**2).astype(np.float32)
        permutation = factor.permutation.numpy()
        shrink, step = (np.ascontiguousarray(x[order][:, permutation].T) for x in (shrink, step))
        points = np.empty(step.shape, np.int16)  # (C, R), columns in solving order
        self.solver.quantize_columns(
            w[torch.from_numpy(order)][None], [factor], self._block_rounding(step, shrink, points)
        )
        code["codes"][:, permutation] = points.T >> 1
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
        """A block rounder for one matrix, which writes the trellis points of each column to `points` (C, R)."""
        if self.grid.states == 1:

            def round_column(position: int, column: Tensor) -> Tensor:
                points[position] = round_scalar(column[0].numpy() / step[position], shrink[position])
                return torch.from_numpy(np.float32(0.5) * points[position] * step[position])[None]

            return columnwise(round_column)

        def block(start: int, block: Tensor, upper: Tensor) -> Tensor:
            own, preceding = slice(start, start + block.shape[1]), self.grid.previous_state
            if self.grid.states <= MAX_VECTORIZED_STATES and not torch.triu(upper[0], 1).any():  # no feedback
                search_columns(
                    (block[0].numpy() / step[own]).astype(np.float32, copy=False), shrink[own], preceding, points[own]
                )
            else:
                round_columns = viterbi_kernels().round_columns
                round_columns(block[0].numpy(), upper[0].numpy(), step[own], shrink[own], preceding, points[own])
            return torch.from_numpy(np.float32(0.5) * points[own] * step[own])[None]

        return block

    def decode(self, code: EncodedTensor, shape: Shape) -> Tensor:
        self.check_layout(code, shape)
        if not (np.isfinite(code["global_step"]).all() and (code["global_step"] > 0).all()):
            raise CorruptFileError(f"the global step must be positive and finite, found {code['global_step']}")
        points = 2 * code["codes"].astype(np.int16) + self.grid.half_offsets(code["codes"])
        w, order = np.empty(points.shape, np.float32), _row_order(code)
        with np.errstate(over="ignore", invalid="ignore"):
            w[order] = np.float32(0.5) * points * _step_matrix(code)[order]
        if not np.isfinite(w).all():
            raise CorruptFileError("a decoded weight is beyond float32: a stored step is too large")
        return torch.from_numpy(w).reshape(shape)

    def row_and_column_steps(self, code: EncodedTensor) -> tuple[Tensor, Tensor]:
        """Half steps: the points of the trellis are at whole and half steps."""
        rows = np.float32(0.5) * code["global_step"] * log_steps.decode_log_steps(code["rows"])
        return torch.from_numpy(rows), torch.from_numpy(log_steps.decode_log_steps(code["columns"]))

    def row_order(self, code: EncodedTensor) -> NDArray[np.intp]:
        """(R,) the rows in the order of the trellis, in which the indices of a code are stored."""
        return _row_order(code)

    def context_model(self, name: str, shape: Shape) -> TrellisContext:
        return TrellisContext(self.grid, matrix_shape(shape)[1])


class TrellisContext:
    """Context model of the indices: the lowest bit of each column's trellis state, which selects the allowed points."""

    def __init__(self, grid: TrellisGrid, columns: int) -> None:
        self.grid, self.state = grid, np.zeros(columns, np.uint8)
        self.context_count = min(grid.states, 2)

    def next_row(self) -> NDArray[np.uint8]:
        return self.state & np.uint8(1)

    def update(self, row: Array) -> None:
        self.state = self.grid.next_state[self.state, row & 1]


def _code_header(w: Tensor, steps: LogSteps, log2_step: float) -> EncodedTensor:
    """A code with steps and uninitialized indices. log2_step: log2 of the global step.

    Steps are raised where an index would exceed int8: first of columns in which most rows need it, then of rows.
    """
    sizes = np.log2(np.abs(w.numpy()).clip(1e-30)) - math.log2(MAX_UNSOLVED_INDEX) - log2_step
    sizes = sizes - steps.rows.numpy()[:, None]
    columns = np.maximum(steps.columns.numpy(), np.median(sizes, 0))
    column_codes, column_least = log_steps.encode_log_steps(columns)
    over = (sizes - column_least - np.log2(log_steps.decode_log_steps(column_codes))).max(1)
    row_codes, row_least = log_steps.encode_log_steps(steps.rows.numpy() + np.maximum(over, 0))
    return {
        "codes": np.empty(tuple(w.shape), np.int8),
        "rows": row_codes,
        "columns": column_codes,
        "global_step": np.array([2.0 ** (log2_step + row_least + column_least)], np.float32),
    }


def _row_order(code: EncodedTensor) -> NDArray[np.intp]:
    """(R,) order of the rows in the trellis, by increasing step.

    If rows of low and high rate alternated, low-rate rows would often be restricted to the points at half steps, which
    exclude zero and cost about one bit per weight.
    """
    return np.argsort(code["rows"], kind="stable")


def _step_matrix(code: EncodedTensor) -> NDArray[np.float32]:
    """(R, C) steps in float32, computed identically in encoder and decoder."""
    return (code["global_step"] * log_steps.decode_log_steps(code["rows"]))[:, None] * log_steps.decode_log_steps(
        code["columns"]
    )


def _column_sensitivity(factor: InverseCholesky) -> Tensor:
    """(C,) cost of a unit error in each column after GPTQ compensates for it; 0 for columns without input."""
    pivots = torch.empty(len(factor.permutation))
    pivots[factor.permutation] = factor.upper.diagonal().double().pow(-2).float().where(~factor.dead, 0.0)
    return pivots


def _matrix(w: Tensor) -> Tensor:
    return require_finite(w.detach().float().cpu().reshape(matrix_shape(tuple(w.shape))), "a weight is not finite")
