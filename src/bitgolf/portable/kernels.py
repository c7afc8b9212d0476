"""The kernels of portable arithmetic, compiled by numba."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from bitgolf.portable import attention, elementary, products, reductions
from bitgolf.runtime.machine_code import compile_functions

Kernel = Callable[..., None]


class Kernels(NamedTuple):
    """The compiled functions; the functions of the same names in this package describe them."""

    exp: Kernel
    log: Kernel
    sigmoid: Kernel
    silu: Kernel
    tanh: Kernel
    square_root: Kernel
    inverse_root: Kernel
    power: Kernel
    sine: Kernel
    sum: Kernel
    norm: Kernel
    rms_norm: Kernel
    softmax: Kernel
    cumulative_sum: Kernel
    product: Kernel
    attention: Kernel


@cache
def compiled_kernels() -> Kernels:
    """Compile the kernels, or load them from the user's folder; see `machine_code`. A kernel is compiled when it is
    first called.
    """
    values = elementary.exp_value, elementary.log_value, elementary.sine_value
    helpers = reductions.add_lanes, reductions.add_row
    steps = attention.score_keys, attention.normalize_scores, attention.weighted_sum
    kernels = (
        elementary.exp_kernel,
        elementary.log_kernel,
        elementary.sigmoid_kernel,
        elementary.silu_kernel,
        elementary.tanh_kernel,
        elementary.square_root_kernel,
        elementary.inverse_root_kernel,
        elementary.power_kernel,
        elementary.sine_kernel,
        reductions.sum_kernel,
        reductions.norm_kernel,
        reductions.rms_norm_kernel,
        reductions.softmax_kernel,
        reductions.cumulative_sum_kernel,
        products.product_kernel,
        attention.attention_kernel,
    )
    return Kernels(*compile_functions(*values, *helpers, *steps, *kernels)[-len(kernels) :])
