"""Operators that sum: reductions, running sums, norms, products and attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from bitgolf.errors import BitgolfError
from bitgolf.web.loops import broadcast, elements, flat_rows, is_contiguous, loops, move_last, select
from bitgolf.web.recording import Operand
from bitgolf.web.writer import StepWriter

Rule = Callable[..., None]
"""Writes an operator: (writer, operand that is written, arguments and keywords of the operator)."""


def contiguous(writer: StepWriter, x: Operand) -> Operand:
    """The operand, or a contiguous copy of it."""
    if is_contiguous(x):
        return x
    copied = writer.scratch(x.shape, x.dtype)
    writer.elementwise("{0}", copied, x)
    return copied


def linear(writer: StepWriter, out: Operand, x: Operand, weight: Operand, bias: Operand | None = None) -> None:
    number = writer.matrix(weight)
    for row, result in zip(flat_rows(x), flat_rows(out), strict=True):
        writer.call("product", number, writer.placed(contiguous(writer, row)).offset, writer.placed(result).offset)
    if bias is not None:
        writer.elementwise("{0} + {1}", out, out, bias)


def batched_product(writer: StepWriter, out: Operand, a: Operand, b: Operand) -> None:
    """Products of small matrices (…, n, k) and (…, k, m), of any strides."""
    left, right = (x._replace(shape=(1,) * (3 - len(x.shape)) + x.shape, strides=(0,) * (3 - len(x.shape)) + x.strides)
                   for x in map(writer.placed, (a, b)))  # fmt: skip
    y = writer.placed(out)
    result = y._replace(shape=(1,) * (3 - len(y.shape)) + y.shape, strides=(0,) * (3 - len(y.shape)) + y.strides)
    sizes = (*result.shape, left.shape[-1])
    places = [f"{x.offset}, {', '.join(map(str, x.strides))}" for x in (result, left, right)]
    writer.call("batchedProduct", *sizes, *places)


def reduce(function: str) -> Rule:
    """A rule for a reduction over axes by a function of `runtime.js`."""

    def rule(writer: StepWriter, out: Operand, x: Operand, dim: Any = None, keepdim: bool = False, **_: Any) -> None:
        axes = tuple(range(len(x.shape))) if dim in (None, []) else (dim,) if isinstance(dim, int) else tuple(dim)
        reduced, moved = [axis % len(x.shape) for axis in axes], move_last(x, axes)
        rows = moved.shape[: len(moved.shape) - len(axes)]
        if sum(size > 1 for size in moved.shape[len(rows) :]) > 1:
            moved = contiguous(writer, moved)  # then the reduced axes are one run
        width = math.prod(moved.shape[len(rows) :])
        step = min(
            (s for n, s in zip(moved.shape[len(rows) :], moved.strides[len(rows) :], strict=True) if n > 1), default=0
        )
        kept = tuple(s for i, s in enumerate(out.strides) if not keepdim or i not in reduced)
        target = out._replace(shape=rows, strides=kept)
        source = writer.placed(moved)
        vectors = source._replace(shape=rows, strides=source.strides[: len(rows)])
        for loop in loops([writer.placed(target), vectors]):
            (yi, yj), (xi, xj) = loop.strides
            writer.call(function, writer.array(out), writer.array(x), *loop.counts, width,
                        loop.starts[0], yi, yj, loop.starts[1], xi, xj, step)  # fmt: skip

    return rule


def norm(
    writer: StepWriter, out: Operand, x: Operand, order: float = 2, dim: Any = None, keepdim: bool = False
) -> None:
    if order != 2:
        raise BitgolfError(f"a page has the norm of order 2 only, got {order}")
    reduce("norm")(writer, out, x, dim, keepdim)


def rms_norm(
    writer: StepWriter, out: Operand, x: Operand, sizes: Any, weight: Operand | None = None, eps: float | None = None
) -> None:
    if tuple(sizes) != x.shape[-1:]:
        raise BitgolfError("a page has rms_norm over the last axis only")
    smallest = torch.finfo(x.dtype).eps if eps is None else eps
    for row, result in zip(flat_rows(contiguous(writer, x)), flat_rows(out), strict=True):
        writer.call("rmsNorm", x.shape[-1], writer.placed(row).offset, writer.placed(result).offset, smallest)
    if weight is not None:
        writer.elementwise("{0} * {1}", out, out, weight)


def scan(function: str) -> Rule:
    def rule(writer: StepWriter, out: Operand, x: Operand, dim: int, **_: Any) -> None:
        for row, result in zip(flat_rows(move_last(x, (dim,))), flat_rows(move_last(out, (dim,))), strict=True):
            source, target = writer.placed(row), writer.placed(result)
            writer.call(function, writer.array(out), writer.array(x), row.shape[0],
                        target.offset, target.strides[0], source.offset, source.strides[0])  # fmt: skip

    return rule


def searchsorted(writer: StepWriter, out: Operand, ordered: Operand, values: Operand) -> None:
    """Index of the first element that is not below a value, for rows of one value or more."""
    for row, wanted, found in zip(flat_rows(ordered), flat_rows(values), flat_rows(out), strict=True):
        for value, result in zip(elements(wanted), elements(found), strict=True):
            source = writer.placed(contiguous(writer, row))
            writer.call("lowerBound", writer.placed(result).offset, source.offset, row.shape[0], writer.placed(value).offset)  # fmt: skip


def attention(
    writer: StepWriter,
    out: Operand,
    q: Operand,
    k: Operand,
    v: Operand,
    attn_mask: Operand | None = None,
    *,
    is_causal: bool = False,
    enable_gqa: bool = False,
    scale: float | None = None,
) -> None:
    """Attention of one query over the keys that the mask allows: q (1, H, 1, d), k (1, G, S, d), v (1, G, S, e)."""
    if attn_mask is None or is_causal or q.shape[0] != 1 or q.shape[2] != 1 or attn_mask.dtype != torch.bool:
        raise BitgolfError("a page has attention of one query with a mask of truth values only")
    heads, groups, keys = q.shape[1], k.shape[1], k.shape[2]
    mask = writer.placed(
        contiguous(writer, broadcast(attn_mask, (1, attn_mask.shape[1] if len(attn_mask.shape) > 3 else 1, 1, keys)))
    )
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    keys_at, values_at = writer.placed(k), writer.placed(v)
    if keys_at.strides[-1] != 1 or values_at.strides[-1] != 1 or mask.shape[1] != 1:
        raise BitgolfError("a page has attention with contiguous heads and one mask for all heads only")
    for head in range(heads):
        group = head * groups // heads
        query, result = (writer.placed(select(select(select(x, 0, 0), 0, head), 0, 0)) for x in (q, out))
        writer.call(
            "attend", factor, query.offset, mask.offset, keys, q.shape[-1],
            keys_at.offset + group * keys_at.strides[1], keys_at.strides[2], v.shape[-1],
            values_at.offset + group * values_at.strides[1], values_at.strides[2], result.offset,
        )  # fmt: skip
