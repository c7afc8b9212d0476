"""Integer codes by GPTQ with one Hessian, with one for each group of rows, or with Hessians of inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgolf.grids.integer import IntGrid
from bitgolf.quantize.codecs.gptq import GPTQ, InverseCholesky
from bitgolf.quantize.stats import MatrixStats, group_slices

Floats = NDArray[np.float32]


def solve_codes(
    solver: GPTQ,
    grid: IntGrid,
    prepared: tuple[Tensor, Tensor, Tensor],
    factors: Sequence[InverseCholesky],
    stats: Sequence[MatrixStats],
) -> Tensor:
    """int8 codes (M, R, C) of M matrices of one shape, which are solved together where each has one Hessian.

    prepared: the weights (M, R, C), the mask of weights that are not pruned (M, R, C), and the steps (M, R).
    factors: of the Hessian of each matrix. Those of groups of rows are computed here at each call.
    """
    w, kept, step = prepared
    if all(known.row_hessians is None and known.output_hessian is None for known in stats):
        return solver.quantize(w, factors, step[..., None], grid.quantize, kept)
    one_by_one = zip(w, kept, step, factors, stats, strict=True)
    return torch.stack([_codes(solver, grid, *matrix) for matrix in one_by_one])


def _codes(
    solver: GPTQ, grid: IntGrid, w: Tensor, kept: Tensor, step: Tensor, factor: InverseCholesky, stats: MatrixStats
) -> Tensor:
    """int8 codes (R, C) of one matrix."""
    if stats.output_hessian is not None:
        return _two_sided_codes(grid, w, kept, step, factor.cpu(), solver.factorize(stats.output_hessian).cpu())
    if stats.row_hessians is None:
        return solver.quantize(w[None], [factor], step[None, :, None], grid.quantize, kept[None])[0]
    groups = zip(group_slices(len(w), len(stats.row_hessians)), stats.row_hessians, strict=True)
    return torch.cat(
        [
            solver.quantize(
                w[None, rows], [solver.factorize(h)], step[None, rows, None], grid.quantize, kept[None, rows]
            )[0]
            for rows, h in groups
        ]
    )


def _two_sided_codes(
    grid: IntGrid, w: Tensor, kept: Tensor, step: Tensor, inputs: InverseCholesky, outputs: InverseCholesky
) -> Tensor:
    """int8 codes (R, C) with error feedback between columns (factor `inputs`) and between rows (factor `outputs`).

    Computed on the CPU. Rows without gradient keep their weights, unlike columns without input.
    """
    rows, columns = outputs.permutation.numpy(), inputs.permutation.numpy()
    left = w.float().masked_fill(_in_place_of(inputs.permutation, inputs.dead), 0.0)
    left = np.ascontiguousarray(left.cpu().numpy()[rows][:, columns].T)  # (C, R), both in solving order
    allowed = np.ascontiguousarray(kept.cpu().numpy()[rows][:, columns].T)
    codes = np.empty(left.shape, np.int8)
    steps = np.ascontiguousarray(step.float().cpu().numpy()[rows])
    limits = np.array([grid.qmin, grid.qmax, grid.multiple], np.float32)
    kernel()(left, allowed, steps, limits, inputs.upper.numpy(), outputs.upper.numpy(), codes)
    found = np.empty((len(rows), len(columns)), np.int8)
    found[np.ix_(rows, columns)] = codes.T
    return torch.from_numpy(found).to(w.device)


def _in_place_of(permutation: Tensor, values: Tensor) -> Tensor:
    """Values by position in the solving order -> values by column."""
    found = torch.empty_like(values)
    found[permutation] = values
    return found.to(values.device)


def round_two_sided(
    left: Floats,
    allowed: NDArray[np.bool_],
    step: Floats,
    limits: Floats,
    inputs: Floats,
    outputs: Floats,
    codes: NDArray[np.int8],
) -> None:
    """Write the codes (C, R) of a matrix `left` (C, R), which is changed in place. Compiled by numba.

    A column is rounded row after row, with the error of each fed back to the later rows; the error of the column as a
    whole, relative to its values before this feedback, is then fed back to the later columns. This is YAQA's rounding,
    W' = Q(W + A^T D + D B + A^T D B) with D = W - W' and the unit upper triangular factors 1 + A and 1 + B of the Hessians
    of outputs and inputs.
    step: (R,).  limits: smallest and largest code, and their common divisor.  inputs (C, C), outputs (R, R): upper
    Cholesky factors of the inverse Hessians, in solving order.
    """
    rows = left.shape[1]
    values, error = np.empty(rows, np.float32), np.empty(rows, np.float32)
    for j in range(left.shape[0]):
        values[:] = left[j]
        for i in range(rows):
            code = np.float32(0.0)
            if allowed[j, i]:
                code = np.rint(values[i] / (step[i] * limits[2])) * limits[2]
                code = min(max(code, limits[0]), limits[1])
            codes[j, i] = np.int8(code)
            decoded = code * step[i]
            error[i] = (left[j, i] - decoded) / inputs[j, j]
            feedback = (values[i] - decoded) / outputs[i, i]
            for k in range(i + 1, rows):
                values[k] -= outputs[i, k] * feedback
        for k in range(j + 1, left.shape[0]):
            for i in range(rows):
                left[k, i] -= inputs[j, k] * error[i]


@cache
def kernel() -> Callable[..., None]:
    """`round_two_sided`, compiled. `machine_code` is imported here because numba takes a second to import."""
    from bitgolf.runtime.machine_code import compile_functions

    (compiled,) = compile_functions(round_two_sided)
    return compiled
