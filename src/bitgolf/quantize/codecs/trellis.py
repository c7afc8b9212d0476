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
from bitgolf.errors import DamagedError, RecipeError, at
from bitgolf.grids import log_steps
from bitgolf.grids.trellis import TrellisGrid
from bitgolf.pack.byte_planes import Array
from bitgolf.pack.streams import Code
from bitgolf.quantize.codecs.bit_allocation import Allocation, Demand, EqualCost, Steps, demand, spreads
from bitgolf.quantize.codecs.codec import Arrays, Codec, RuleEncoding, Shape, finite, largest_first, matrix_shape
from bitgolf.quantize.codecs.gptq import Factor, Gptq, RoundBlock, by_column
from bitgolf.quantize.codecs.session import Session
from bitgolf.quantize.codecs.viterbi import Floats, compiled, nearest
from bitgolf.quantize.stats import Stats

ERROR = {1: 0.08333, 4: 0.06626, 8: 0.0649, 16: 0.06399, 32: 0.06304, 64: 0.0624, 128: 0.06175, 256: 0.06128}
"""states -> mean square error at high rate, in squared steps: measured by `bench/rate_distortion.py --errors`."""
ROOM = 96
"""The largest index that a weight may need as it stands; GPTQ adds to it what other columns lost."""


@register
class Trellis(Codec):
    """Indices of a trellis of so many `states` (one: plain rounding) that runs down the rows of each column.

    bits: what a weight of the matrices of this rule costs in the mean, estimated from their spreads; it decides the unit
    of all steps, and `allocate` who gets smaller ones.
    rate: how much the search minds bits; at 1 it gives up error for them at the very price that a finer step would pay: best
    by error alone, but it draws weights towards zero, and a loss that has a slope there feels that (`bench/compression.py`).
    solve: how the columns answer for one another's errors; None rounds each by itself.
    """

    def __init__(
        self,
        *,
        bits: float,
        states: int = 256,
        rate: float = 0.0,
        allocate: Spec[Allocation] = part(EqualCost),
        solve: Spec[Gptq] | None = part(Gptq),
    ) -> None:
        if not 0 < bits <= 7:
            raise RecipeError(f"a weight has more than 0 and at most 7 bits here, not {bits}", place="Trellis.bits")
        if not 0 <= rate <= 2:
            raise RecipeError(f"rate is 0 to 2, not {rate}", place="Trellis.rate")
        self.grid, self.bits, self.rate = TrellisGrid(states), bits, rate
        self.allocate, self.solve = allocate(), (solve or part(Gptq, order="given"))()
        self.solved = solve is not None

    @property
    def contextual(self) -> tuple[str, ...]:
        return ("codes",)

    @property
    def calibrated(self) -> bool:
        return self.solved or isinstance(self.allocate, EqualCost)

    def arrays(self, shape: Shape) -> Arrays:
        rows, columns = matrix_shape(shape)
        return {
            "codes": (np.dtype(np.int8), (rows, columns)),
            "rows": (np.dtype(np.uint8), (rows,)),
            "columns": (np.dtype(np.uint8), (columns,)),
            "unit": (np.dtype(np.float32), (1,)),
        }

    def fit_encode(
        self, weights: Mapping[str, Tensor], stats: Mapping[str, Stats], session: Session | None = None
    ) -> RuleEncoding:
        """With the one global step at which all matrices together have the bits they may have."""
        session = session or Session()

        def wanted(path: str) -> Demand:
            with at(path):
                w = _matrix(weights[path])
                return demand([(w, self._allotted(w, stats.get(path), session)[1])])

        widest = sorted(weights, key=lambda path: -matrix_shape(tuple(weights[path].shape))[1])  # they factor longest
        unit = Demand.sum(session.map(wanted, widest)).unit(self.bits, self.rate)

        def work(path: str) -> tuple[str, Code]:
            with at(path):
                return path, self._encoded(weights[path], stats.get(path), session, unit)

        matrices = f"{len(weights)} {'matrix' if len(weights) == 1 else 'matrices'}"
        chosen = f"trellis of {self.grid.states} states, {self.bits:g} bits a weight over {matrices}, compiled by numba"
        return RuleEncoding(session.map(work, largest_first(weights)), chosen)

    def encode(self, w: Tensor, stats: Stats | None = None, session: Session | None = None) -> Code:
        """On the CPU, wherever the weights and the Hessian lie; the Hessian is factored where it is."""
        return self._encoded(w, stats, session or Session())

    def _encoded(self, w: Tensor, stats: Stats | None, session: Session, unit: float | None = None) -> Code:
        """unit: log2 of the global step; None is the one at which this matrix alone has its bits."""
        w = _matrix(w)
        factor, steps = self._allotted(w, stats, session)
        code = _empty(w, steps, demand([(w, steps)]).unit(self.bits, self.rate) if unit is None else unit)
        order, step = _order(code), _step(code)
        shrink = (self.rate * ERROR[self.grid.states] * (step / spreads(w).numpy()) ** 2).astype(np.float32)
        turns = factor.order.numpy()
        shrink, step = (np.ascontiguousarray(x[order][:, turns].T) for x in (shrink, step))
        points = np.empty(step.shape, np.int16)  # (C, R), in the order of their turns
        self.solve.feed(w[torch.from_numpy(order)][None], [factor], self._rounded(step, shrink, points))
        code["codes"][:, turns] = points.T >> 1
        return code

    def _allotted(self, w: Tensor, stats: Stats | None, session: Session) -> tuple[Factor, Steps]:
        stats = stats or session.flat(*w.shape)
        factor = stats.factorize(self.solve).cpu()
        return factor, self.allocate.steps(w, stats._replace(outputs=stats.outputs.cpu()), _pivots(factor))

    def _rounded(self, step: Floats, shrink: Floats, points: NDArray[np.int16]) -> RoundBlock:
        """Rounds the columns of one matrix to the trellis's points, which it writes."""
        if self.grid.states == 1:

            def column(turn: int, column: Tensor) -> Tensor:
                points[turn] = nearest(column[0].numpy() / step[turn], shrink[turn])
                return torch.from_numpy(np.float32(0.5) * points[turn] * step[turn])[None]

            return by_column(column)

        def block(start: int, block: Tensor, upper: Tensor) -> Tensor:
            own, (search, round_columns) = slice(start, start + block.shape[1]), compiled()
            machine = self.grid.preceding
            round_columns(search, block[0].numpy(), upper[0].numpy(), step[own], shrink[own], machine, points[own])
            return torch.from_numpy(np.float32(0.5) * points[own] * step[own])[None]

        return block

    def decode(self, code: Code, shape: Shape) -> Tensor:
        self.check(code, shape)
        if not (np.isfinite(code["unit"]).all() and (code["unit"] > 0).all()):
            raise DamagedError("the unit of the steps is none")
        points = 2 * code["codes"].astype(np.int16) + self.grid.halves(code["codes"])
        w, order = np.empty(points.shape, np.float32), _order(code)
        with np.errstate(over="ignore", invalid="ignore"):
            w[order] = np.float32(0.5) * points * _step(code)[order]
        if not np.isfinite(w).all():
            raise DamagedError("a step is beyond float32")
        return torch.from_numpy(w).reshape(shape)

    def walk(self, name: str, shape: Shape) -> Down:
        return Down(self.grid, matrix_shape(shape)[1])


class Down:
    """A walk down the rows: where each column's machine stands, and so which half of the points may follow."""

    def __init__(self, grid: TrellisGrid, columns: int) -> None:
        self.grid, self.state = grid, np.zeros(columns, np.uint8)
        self.contexts = min(grid.states, 2)

    def row(self) -> NDArray[np.uint8]:
        return self.state & np.uint8(1)

    def push(self, row: Array) -> None:
        self.state = self.grid.following[self.state, row & 1]


def _empty(w: Tensor, steps: Steps, unit: float) -> Code:
    """A code without its indices. No step is so small that an index would not fit its byte: columns give way where most
    of their rows ask for it, and rows for what is left."""
    sizes = np.log2(np.abs(w.numpy()).clip(1e-30)) - math.log2(ROOM) - unit - steps.rows.numpy()[:, None]
    columns = np.maximum(steps.columns.numpy(), np.median(sizes, 0))
    column_codes, column_least = log_steps.nearest(columns)
    over = (sizes - column_least - np.log2(log_steps.expand(column_codes))).max(1)
    row_codes, row_least = log_steps.nearest(steps.rows.numpy() + np.maximum(over, 0))
    return {
        "codes": np.empty(tuple(w.shape), np.int8),
        "rows": row_codes,
        "columns": column_codes,
        "unit": np.array([2.0 ** (unit + row_least + column_least)], np.float32),
    }


def _order(code: Code) -> NDArray[np.intp]:
    """The rows as the trellis goes through them: small steps first. Where rows of few bits and of many took turns, the
    former would often stand at a point between steps, which costs them a bit that they have not."""
    return np.argsort(code["rows"], kind="stable")


def _step(code: Code) -> NDArray[np.float32]:
    """(rows, columns), the same float32 for reader and writer."""
    return (code["unit"] * log_steps.expand(code["rows"]))[:, None] * log_steps.expand(code["columns"])


def _pivots(factor: Factor) -> Tensor:
    """(C,) what an error of 1 costs, by column of the matrix, once the columns after it have answered; dead ones nothing."""
    pivots = torch.empty(len(factor.order))
    pivots[factor.order] = factor.upper.diagonal().double().pow(-2).float().where(~factor.dead, 0.0)
    return pivots


def _matrix(w: Tensor) -> Tensor:
    return finite(w.detach().float().cpu().reshape(matrix_shape(tuple(w.shape))), "a weight is not finite")
