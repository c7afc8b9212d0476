"""Triton kernels. The operators of this package import this module when they run, since Triton may not be installed.

Sizes that are not multiples of the tile are masked. EVEN states that they are multiples: the masks are then compiled
away.
"""

# pyright: reportMissingImports=false, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false

from __future__ import annotations

import triton
import triton.language as tl

# ---- softcapped cross-entropy ---------------------------------------------------------------------------------------


@triton.jit
def sigmoid_base2(x):
    """1 / (1 + 2^-x); 0 if 2^-x is infinite.

    Computed as the square of a reciprocal square root: one instruction and a product, where a division of the same
    accuracy (2 units in the last place) takes seven instructions.
    """
    root = tl.rsqrt(1 + tl.exp2(-x))
    return root * root


@triton.jit
def softcapped_cross_entropy_forward(
    z_ptr, target_ptr, loss_ptr, lse_ptr, columns, stride, rate, bits, BLOCK: tl.constexpr, EVEN: tl.constexpr
):  # fmt: skip
    """One program per row: lse = log2 of the sum of 2^y with y = bits (sigmoid_base2(rate z) - 1/2), and the loss.

    With rate = 2 log2(e) / c and bits = 2 c log2(e), y is c tanh(z / c) in bits. It lies within +-bits / 2, so the sum
    stays within float32 without subtracting a maximum. The loss is (lse - y_target) ln 2 nats.
    """
    row = tl.program_id(0).to(tl.int64)
    z_row = z_ptr + row * stride
    sums = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        if EVEN:
            z = tl.load(z_row + column).to(tl.float32)
            sums += tl.exp2(bits * sigmoid_base2(rate * z) - 0.5 * bits)
        else:
            z = tl.load(z_row + column, mask=column < columns, other=0.0).to(tl.float32)
            sums += tl.where(column < columns, tl.exp2(bits * sigmoid_base2(rate * z) - 0.5 * bits), 0.0)
    lse = tl.log2(tl.sum(sums, 0))
    z = tl.load(z_row + tl.load(target_ptr + row)).to(tl.float32)
    tl.store(loss_ptr + row, (lse - bits * sigmoid_base2(rate * z) + 0.5 * bits) * 0.6931471805599453)
    tl.store(lse_ptr + row, lse)


@triton.jit
def softcapped_cross_entropy_backward(
    g_ptr, z_ptr, target_ptr, lse_ptr, dz_ptr, columns, stride, rate, bits, BLOCK: tl.constexpr, EVEN: tl.constexpr
):  # fmt: skip
    """One program per row: dz = g (softmax - onehot) 4 sigma (1 - sigma)."""
    row = tl.program_id(0).to(tl.int64)
    g = 4 * tl.load(g_ptr + row)
    shift = tl.load(lse_ptr + row) + 0.5 * bits
    target = tl.load(target_ptr + row).to(tl.int32)
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        if EVEN:
            z = tl.load(z_ptr + row * stride + column).to(tl.float32)
        else:
            z = tl.load(z_ptr + row * stride + column, mask=column < columns, other=0.0).to(tl.float32)
        s = sigmoid_base2(rate * z)
        dy = tl.exp2(bits * s - shift) - tl.where(column == target, 1.0, 0.0)
        dz = (g * dy * (s - s * s)).to(dz_ptr.dtype.element_ty)
        if EVEN:
            tl.store(dz_ptr + row * columns + column, dz)
        else:
            tl.store(dz_ptr + row * columns + column, dz, mask=column < columns)


# ---- matrix products of the MLP -------------------------------------------------------------------------------------


@triton.jit
def load_tile(pointers, inside, EVEN: tl.constexpr):
    """Load a tile, with zeros outside the mask `inside`. EVEN: the whole tile is inside, and no mask is applied."""
    if EVEN:
        tile = tl.load(pointers)
    else:
        tile = tl.load(pointers, mask=inside, other=0.0)
    return tile


@triton.jit
def store_tile(pointers, tile, inside, EVEN: tl.constexpr):
    """Store the part of a tile within the mask `inside`, rounded to the dtype of the destination."""
    if EVEN:
        tl.store(pointers, tile.to(pointers.dtype.element_ty))
    else:
        tl.store(pointers, tile.to(pointers.dtype.element_ty), mask=inside)


@triton.jit
def squared_leaky_relu(u, slope):
    leaky = tl.where(u > 0, u, slope * u)
    return leaky * leaky


@triton.jit
def squared_leaky_relu_grad(u, slope):
    return 2 * tl.where(u > 0, u, slope * slope * u)


@triton.jit
def matmul_squared_leaky_relu(
    a_ptr, b_ptr, u_ptr, out_ptr, m, n, k, am, ak, bk, bn, slope, BACKWARD: tl.constexpr, EVEN: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """One program per tile (M, N) of p = a b, accumulated in float32. a (m, k) and b (k, n) are given with strides.

    Forward: stores u = p and out = leaky(u)^2. Backward: reads u and stores out = p * d leaky(u)^2 / du.
    Consecutive programs share their rows of a, the larger matrix, so that these are read from memory once.
    """
    across = tl.cdiv(n, N)
    rows = (tl.program_id(0) // across) * M + tl.arange(0, M)
    columns = (tl.program_id(0) % across) * N + tl.arange(0, N)
    inner = tl.arange(0, K)
    a_at = a_ptr + rows[:, None].to(tl.int64) * am + inner[None, :] * ak
    b_at = b_ptr + inner[:, None] * bk + columns[None, :].to(tl.int64) * bn
    inside = (rows[:, None] < m) & (columns[None, :] < n)
    p = tl.zeros((M, N), dtype=tl.float32)
    for start in range(0, k, K):
        left = k - start
        a = load_tile(a_at, (rows[:, None] < m) & (inner[None, :] < left), EVEN)
        b = load_tile(b_at, (inner[:, None] < left) & (columns[None, :] < n), EVEN)
        p = tl.dot(a, b, p, input_precision="ieee")
        a_at += K * ak
        b_at += K * bk
    at = rows[:, None].to(tl.int64) * n + columns[None, :]
    if BACKWARD:
        out = p * squared_leaky_relu_grad(load_tile(u_ptr + at, inside, EVEN).to(tl.float32), slope)
    else:
        store_tile(u_ptr + at, p, inside, EVEN)
        out = squared_leaky_relu(p, slope)
    store_tile(out_ptr + at, out, inside, EVEN)


@triton.jit
def matmul_squared_leaky_relu_tma(
    a, b, u, out, m, n, k, slope, BACKWARD: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    PROGRAMS: tl.constexpr,
):  # fmt: skip
    """`matmul_squared_leaky_relu` with tensor descriptors (Hopper TMA). b is (n, k) forward and (k, n) backward.

    A persistent kernel: each program computes every PROGRAMS-th tile, so that the stores of one tile overlap the
    products of the next. A tile is stored in two halves of N, which halves the shared memory for stores. Descriptors
    read zeros outside a matrix and write nothing there.
    """
    across = tl.cdiv(n, N)
    for tile in tl.range(tl.program_id(0), tl.cdiv(m, M) * across, PROGRAMS, flatten=True):
        row = (tile // across) * M
        column = (tile % across) * N
        p = tl.zeros((M, N), dtype=tl.float32)
        for i in range(0, k, K):
            if BACKWARD:
                p = tl.dot(a.load([row, i]), b.load([i, column]), p, input_precision="ieee")
            else:
                p = tl.dot(a.load([row, i]), b.load([column, i]).T, p, input_precision="ieee")
        left, right = tl.split(tl.permute(tl.reshape(p, (M, 2, N // 2)), (0, 2, 1)))
        if BACKWARD:
            u_left = u.load([row, column]).to(tl.float32)
            out.store([row, column], (left * squared_leaky_relu_grad(u_left, slope)).to(out.dtype))
            u_right = u.load([row, column + N // 2]).to(tl.float32)
            out.store([row, column + N // 2], (right * squared_leaky_relu_grad(u_right, slope)).to(out.dtype))
        else:
            u.store([row, column], left.to(u.dtype))
            out.store([row, column], squared_leaky_relu(left, slope).to(out.dtype))
            u.store([row, column + N // 2], right.to(u.dtype))
            out.store([row, column + N // 2], squared_leaky_relu(right, slope).to(out.dtype))


# ---- exclusive self-attention and its gate --------------------------------------------------------------------------


@triton.jit
def exclusive_attention_gate_forward(
    y_ptr, v_ptr, z_ptr, out_ptr, tokens, v_stride, scale, gain, eps,
    G: tl.constexpr, R: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """One program per B tokens and value head: out_h = (y_h - (y_h . u) u) gate(z_h) for its R query heads.

    u = v / max(|v|, eps), gate(z) = gain sigma(scale z). y and out are (tokens, G R, D), z is (tokens, G R), and v is
    (tokens, G, D) with a stride of `v_stride` between tokens. WIDE is D rounded up to a power of two.
    """
    t = (tl.program_id(0) * B + tl.arange(0, B)).to(tl.int64)
    g = tl.program_id(1)
    d = tl.arange(0, WIDE)[None, :]
    inside = (t < tokens)[:, None] & (d < D)
    v = tl.load(v_ptr + t[:, None] * v_stride + g * D + d, mask=inside, other=0.0).to(tl.float32)
    u = v / tl.maximum(tl.sqrt(tl.sum(v * v, 1)), eps)[:, None]
    for r in tl.static_range(R):
        head = t * (G * R) + g * R + r
        y = tl.load(y_ptr + head[:, None] * D + d, mask=inside, other=0.0).to(tl.float32)
        z = tl.load(z_ptr + head, mask=t < tokens, other=0.0).to(tl.float32)
        orthogonal = y - tl.sum(y * u, 1)[:, None] * u
        out = orthogonal * (gain * tl.sigmoid(scale * z))[:, None]
        tl.store(out_ptr + head[:, None] * D + d, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def exclusive_attention_gate_backward(
    g_ptr, y_ptr, v_ptr, z_ptr, dy_ptr, dv_ptr, dz_ptr, tokens, v_stride, scale, gain, eps,
    G: tl.constexpr, R: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Gradients of y, v and z on the forward's grid. A program sums dv over its R query heads, without atomics.

    The gradients have the shapes of the inputs; dv is contiguous.
    """
    t = (tl.program_id(0) * B + tl.arange(0, B)).to(tl.int64)
    g = tl.program_id(1)
    d = tl.arange(0, WIDE)[None, :]
    inside = (t < tokens)[:, None] & (d < D)
    v = tl.load(v_ptr + t[:, None] * v_stride + g * D + d, mask=inside, other=0.0).to(tl.float32)
    length = tl.sqrt(tl.sum(v * v, 1))
    inverse = 1 / tl.maximum(length, eps)
    u = v * inverse[:, None]
    du = tl.zeros((B, WIDE), dtype=tl.float32)
    for r in tl.static_range(R):
        head = t * (G * R) + g * R + r
        at = head[:, None] * D + d
        y = tl.load(y_ptr + at, mask=inside, other=0.0).to(tl.float32)
        dout = tl.load(g_ptr + at, mask=inside, other=0.0).to(tl.float32)
        z = tl.load(z_ptr + head, mask=t < tokens, other=0.0).to(tl.float32)
        s = tl.sigmoid(scale * z)
        projection = tl.sum(y * u, 1)[:, None]
        dz = gain * scale * s * (1 - s) * tl.sum(dout * (y - projection * u), 1)
        tl.store(dz_ptr + head, dz.to(dz_ptr.dtype.element_ty), mask=t < tokens)
        d_orthogonal = dout * (gain * s)[:, None]
        d_projection = tl.sum(d_orthogonal * u, 1)[:, None]
        tl.store(dy_ptr + at, (d_orthogonal - d_projection * u).to(dy_ptr.dtype.element_ty), mask=inside)
        du -= d_projection * y + projection * d_orthogonal
    # The gradient of v / |v| has no radial component. For |v| <= eps, u = v / eps is linear and keeps it.
    radial = tl.where(length > eps, tl.sum(du * u, 1), 0.0)
    dv = (du - radial[:, None] * u) * inverse[:, None]
    tl.store(dv_ptr + (t[:, None] * G + g) * D + d, dv.to(dv_ptr.dtype.element_ty), mask=inside)
