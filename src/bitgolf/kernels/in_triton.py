"""The Triton kernels. Only the operators in this room import this file, and only when they run: Triton may be missing."""

# pyright: reportMissingImports=false, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sigma(x):
    """The logistic function, without overflow on either side."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x > 0, 1.0, e) / (1 + e)


@triton.jit
def softcapped_ce_forward(z_ptr, target_ptr, loss_ptr, lse_ptr, columns, stride, cap, BLOCK: tl.constexpr):
    """One row a program: the log-sum-exp of y = 2c sigma(2z/c) block by block, with a running maximum; loss lse - y_t."""
    row = tl.program_id(0).to(tl.int64)
    z_row = z_ptr + row * stride
    top = -float("inf")
    total = 0.0
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        z = tl.load(z_row + column, mask=column < columns, other=0.0).to(tl.float32)
        y = tl.where(column < columns, 2 * cap * sigma(2 * z / cap), -float("inf"))
        new = tl.maximum(top, tl.max(y, 0))
        total = total * tl.exp(top - new) + tl.sum(tl.exp(y - new), 0)
        top = new
    lse = top + tl.log(total)
    z = tl.load(z_row + tl.load(target_ptr + row)).to(tl.float32)
    tl.store(loss_ptr + row, lse - 2 * cap * sigma(2 * z / cap))
    tl.store(lse_ptr + row, lse)


@triton.jit
def softcapped_ce_backward(g_ptr, z_ptr, target_ptr, lse_ptr, dz_ptr, columns, stride, cap, BLOCK: tl.constexpr):
    """One row a program: dz = g (softmax - onehot) 4 sigma (1 - sigma)."""
    row = tl.program_id(0).to(tl.int64)
    g = tl.load(g_ptr + row)
    lse = tl.load(lse_ptr + row)
    target = tl.load(target_ptr + row)
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + row * stride + column, mask=column < columns, other=0.0).to(tl.float32)
        s = sigma(2 * z / cap)
        dy = tl.exp(2 * cap * s - lse) - tl.where(column == target, 1.0, 0.0)
        dz = g * dy * 4 * s * (1 - s)
        tl.store(dz_ptr + row * columns + column, dz.to(dz_ptr.dtype.element_ty), mask=column < columns)


@triton.jit
def matmul_leaky(
    a_ptr, b_ptr, u_ptr, out_ptr, m, n, k, am, ak, bk, bn, slope, BACKWARD: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """One tile (M, N) of p = a b a program, accumulated in float32; a (m, k) and b (k, n) by their strides.

    Forward: u = p is kept and out = leaky(u)^2. Backward: out = p * d leaky(u)^2 / du, with the u that was kept.
    """
    rows = tl.program_id(0) * M + tl.arange(0, M)
    columns = tl.program_id(1) * N + tl.arange(0, N)
    inner = tl.arange(0, K)
    p = tl.zeros((M, N), dtype=tl.float32)
    for start in range(0, k, K):
        i = start + inner
        a_at = rows[:, None].to(tl.int64) * am + i[None, :] * ak
        b_at = i[:, None] * bk + columns[None, :].to(tl.int64) * bn
        a = tl.load(a_ptr + a_at, mask=(rows[:, None] < m) & (i[None, :] < k), other=0.0)
        b = tl.load(b_ptr + b_at, mask=(i[:, None] < k) & (columns[None, :] < n), other=0.0)
        p = tl.dot(a, b, p, input_precision="ieee")
    at = rows[:, None].to(tl.int64) * n + columns[None, :]
    inside = (rows[:, None] < m) & (columns[None, :] < n)
    if BACKWARD:
        u = tl.load(u_ptr + at, mask=inside, other=0.0).to(tl.float32)
        out = p * 2 * tl.where(u > 0, u, slope * slope * u)
    else:
        tl.store(u_ptr + at, p.to(u_ptr.dtype.element_ty), mask=inside)
        leaky = tl.where(p > 0, p, slope * p)
        out = leaky * leaky
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=inside)
