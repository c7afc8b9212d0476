"""A dot product in vectors of 16 float32, as an intrinsic: LLVM divides them into the vectors of the processor.

A loop over 16 partial sums is not vectorized well by itself, since the arrays might overlap.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
"""Partial sums of a dot product."""

FLOATS = types.Array(types.float32, 1, "C")


def _dot_blocks(typing_context: Any, a: Any, start_a: Any, b: Any, start_b: Any, n: Any) -> Any:
    """Return the dot product of a[start_a :] and b[start_b :], n elements, a multiple of 16.

    Product i belongs to partial sum i mod 16, in ascending order. The sums are added by halves: i + (i + 8), then
    i + (i + 4), i + (i + 2), and 0 + 1. Products and sums are rounded separately.
    """
    signature = types.float32(FLOATS, types.int64, FLOATS, types.int64, types.int64)
    vector = ir.VectorType(ir.FloatType(), LANES)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first, start_first, second, start_second, count = arguments
        sums = cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * LANES))
        pointers = [
            builder.gep(context.make_array(FLOATS)(context, builder, value).data, [start])
            for value, start in ((first, start_first), (second, start_second))
        ]
        step = ir.Constant(count.type, LANES)
        with cgutils.for_range(builder, builder.sdiv(count, step)) as loop:
            at = builder.mul(loop.index, step)
            x, y = (_load(builder, builder.gep(pointer, [at]), vector) for pointer in pointers)
            builder.store(builder.fadd(builder.load(sums), builder.fmul(x, y)), sums)
        total, width = builder.load(sums), LANES
        while width > 1:
            width //= 2
            halves = [
                builder.shuffle_vector(total, total, ir.Constant(ir.VectorType(ir.IntType(32), width), range_of))
                for range_of in (list(range(width)), list(range(width, 2 * width)))
            ]
            total = builder.fadd(*halves)
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return signature, generate


dot_blocks: Any = intrinsic(_dot_blocks)


def _load(builder: Any, pointer: Any, vector: Any) -> Any:
    """A vector at a pointer to floats, which need not be aligned to the vector."""
    loaded = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    loaded.align = 4
    return loaded
