"""The matrix product of float32: every element is one sum over k in ascending order, each step rounded twice.

The sum of an element begins at 0 and adds a[k] * b[k] for k = 0, 1, …; neither is it split, nor are products and
additions fused. The loops run over columns, so vectors of any width give the same bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

PANEL = 64
"""Columns of a panel. Its sums for four rows stay in the first-level cache, and its constant length lets loops
vectorize without checks."""


def product_kernel(
    a: Floats, panels: Floats, out: Floats, first_row: int, last_row: int, first_panel: int, last_panel: int
) -> None:
    """Write the rows and panels of a range of a @ b to `out`.

    a: (M, K).  panels: (N / PANEL, K, PANEL), `pack_columns` of b.  out: (M, N).
    Four rows share each load of b, and four steps of k share each load of the sums.
    """
    inner, columns = a.shape[1], out.shape[1]
    sums = np.empty((4, PANEL), np.float32)
    for panel in range(first_panel, last_panel):
        b = panels[panel]
        width = min(PANEL, columns - panel * PANEL)
        for row in range(first_row, last_row, 4):
            count = min(4, last_row - row)
            second, third, fourth = row + min(1, count - 1), row + min(2, count - 1), row + min(3, count - 1)
            sums[:] = np.float32(0.0)
            for k in range(0, inner - 3, 4):
                p0, p1, p2, p3 = a[row, k], a[row, k + 1], a[row, k + 2], a[row, k + 3]
                q0, q1, q2, q3 = a[second, k], a[second, k + 1], a[second, k + 2], a[second, k + 3]
                r0, r1, r2, r3 = a[third, k], a[third, k + 1], a[third, k + 2], a[third, k + 3]
                s0, s1, s2, s3 = a[fourth, k], a[fourth, k + 1], a[fourth, k + 2], a[fourth, k + 3]
                for j in range(PANEL):
                    b0, b1, b2, b3 = b[k, j], b[k + 1, j], b[k + 2, j], b[k + 3, j]
                    sums[0, j] = (((sums[0, j] + p0 * b0) + p1 * b1) + p2 * b2) + p3 * b3
                    sums[1, j] = (((sums[1, j] + q0 * b0) + q1 * b1) + q2 * b2) + q3 * b3
                    sums[2, j] = (((sums[2, j] + r0 * b0) + r1 * b1) + r2 * b2) + r3 * b3
                    sums[3, j] = (((sums[3, j] + s0 * b0) + s1 * b1) + s2 * b2) + s3 * b3
            for k in range(inner - inner % 4, inner):
                for j in range(PANEL):
                    sums[0, j] += a[row, k] * b[k, j]
                    sums[1, j] += a[second, k] * b[k, j]
                    sums[2, j] += a[third, k] * b[k, j]
                    sums[3, j] += a[fourth, k] * b[k, j]
            for i in range(count):
                for j in range(width):
                    out[row + i, panel * PANEL + j] = sums[i, j]


def pack_columns(b: Floats) -> Floats:
    """Copy b (K, N) to panels of columns, (N / PANEL, K, PANEL); the last one is padded with zeros."""
    inner, columns = b.shape
    count = -(-columns // PANEL)
    padded = np.zeros((inner, count * PANEL), np.float32)
    padded[:, :columns] = b
    return np.ascontiguousarray(padded.reshape(inner, count, PANEL).transpose(1, 0, 2))
