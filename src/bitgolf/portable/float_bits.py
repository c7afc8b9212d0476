"""Reinterpretation of float64 as int64 and back, as intrinsics that numba compiles to no instruction.

This module imports numba, so it is imported only where portable arithmetic is used.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic


def _bits_of(typing_context: Any, value: Any) -> Any:
    """The int64 with the bits of a float64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.int64))

    return types.int64(types.float64), generate


def _float_of(typing_context: Any, bits: Any) -> Any:
    """The float64 with the bits of an int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float64))

    return types.float64(types.int64), generate


bits_of: Any = intrinsic(_bits_of)
float_of: Any = intrinsic(_float_of)
