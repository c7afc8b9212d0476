"""Weights as integers times the steps of their rows and columns, as most codecs store them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitgolf.pack.streams import EncodedTensor
from bitgolf.quantize.codecs.codec import Codec, matrix_shape
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.codecs.trellis import TrellisCodec

TOLERANCE = 2.0**-22
"""Largest relative difference between a weight and the product of its integer and steps: two roundings of float32."""


class TrellisCode(NamedTuple):
    """How the integers of a trellis are stored: indices int8 (R, C), which take one bit less, in the order of the rows.

    An integer is 2 * index + the lowest bit z0 of the state of its column. The next state is
    (state >> 1) ^ z0 * h0 ^ parity of the index * h1; see `grids.trellis`.
    """

    indices: npt.NDArray[np.int8]
    order: npt.NDArray[np.intp]
    h0: int
    h1: int


class IntegerMatrix(NamedTuple):
    """W = integers * rows[:, None] * columns + left @ right.

    integers: int8 or int16 (R, C).  rows: float32 (R,).  columns: float32 (C,), None for ones.  left, right: float32
    (R, r) and (r, C), None for no correction.  trellis: None if the integers themselves are stored.
    """

    integers: Tensor
    rows: Tensor
    columns: Tensor | None
    left: Tensor | None
    right: Tensor | None
    trellis: TrellisCode | None


def integer_matrix(codec: Codec, code: EncodedTensor, weight: Tensor) -> IntegerMatrix | None:
    """The decoded weight of a code as integers; None if it is not integers times steps, or too large for int16."""
    shape, left, right, trellis = tuple(weight.shape), None, None, None
    if isinstance(codec, LQER):
        a, b = codec.correction(code, shape)
        left, right = (a, b) if a.any() and b.any() else (None, None)
        code, codec = codec.inner_code(code, shape), codec.codec
        weight = codec.decode(code, shape)
    if isinstance(codec, TrellisCodec):
        rows, columns = codec.row_and_column_steps(code)
        following = codec.grid.next_state
        trellis = TrellisCode(
            code["codes"],
            codec.row_order(code),
            int(following[1 % codec.grid.states, 0]),
            int(following[0, 1]),
        )
    else:
        stored: Any = codec.int_grid_and_steps(code)
        if stored is None:
            return None
        rows, columns = stored[1], None
    integers = _integers(weight.detach().reshape(matrix_shape(shape)), rows, columns)
    return None if integers is None else IntegerMatrix(integers, rows.float(), columns, left, right, trellis)


def _integers(w: Tensor, rows: Tensor, columns: Tensor | None) -> Tensor | None:
    """The integers (R, C) of a matrix, int8 if they suffice; None unless all weights are integers times steps."""
    scale = rows.double()[:, None] * (1.0 if columns is None else columns.double())
    integers = (w.double() / scale).round()
    largest = integers.abs().max().item() if integers.numel() else 0.0
    if not (largest < 2**15 and bool(((integers * scale - w).abs() <= TOLERANCE * w.abs()).all())):
        return None
    return integers.to(torch.int8 if largest < 2**7 else torch.int16)
