"""Codecs of ternary, binary and 8-bit float weights: what `model.lowbit`'s views see, packed into bytes.

Ternary and binary weights are stored with scales such that the view, applied to what was read back, finds the trained
weights again, up to the rounding of a scale to float16.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bitgolf.errors import BitgolfError, DamagedError
from bitgolf.grids.lowbit import FLOAT8_TOP, BinaryGrid, Float8Grid, GroupGrid, TernaryGrid
from bitgolf.pack.planes import Array
from bitgolf.pack.streams import Code
from bitgolf.quantize.codec import Arrays, Codec, Shape, finite
from bitgolf.spec import register

TRITS = 3 ** np.arange(5, dtype=np.uint8)  # five to a byte: 3**5 = 243


class Groups(Codec):
    """Codes of less than a byte, packed, and one float16 scale for each group of the flattened tensor."""

    grid: GroupGrid
    per_byte: ClassVar[int]

    @abstractmethod
    def pack(self, codes: Array) -> Array:
        """int8[n] -> uint8[ceil(n / per_byte)]; the last byte is filled up with codes of -1."""

    @abstractmethod
    def unpack(self, packed: Array) -> Array:
        """The inverse, with what fills the last byte. Raises `DamagedError` for a byte that `pack` never makes."""

    def arrays(self, shape: Shape) -> Arrays:
        n = math.prod(shape)
        packed, groups = (-(-n // self.per_byte),), (self.grid.groups(n),)
        return {"codes": (np.dtype(np.uint8), packed), "scales": (np.dtype(np.float16), groups)}

    def encode(self, w: Tensor, stats: Any = None) -> Code:
        codes, scales = self.grid.encode(finite(w.detach().float().cpu(), "a weight is not finite"))
        stored = finite(scales.half(), "a group needs a scale beyond float16 (65504)")
        return {"codes": self.pack(codes.flatten().numpy()), "scales": stored.numpy()}

    def decode(self, code: Code, shape: Shape) -> Tensor:
        self.check(code, shape)
        codes, scales = self.unpack(code["codes"]), torch.from_numpy(code["scales"]).float()
        n = math.prod(shape)
        if (codes[n:] != -1).any():
            raise DamagedError("the last byte holds more codes than the tensor has weights")
        if not (torch.isfinite(scales) & (scales >= 0)).all():
            raise DamagedError("a scale is negative or not finite")
        return self.grid.expand(torch.from_numpy(codes[:n]), scales).reshape(shape)


@register
class TernaryGroups(Groups):
    """-1, 0, 1 as base-3 digits, five to a byte, the first one lowest: 1.6 bits a weight and 16 / group for the scales.

    Source: openai/parameter-golf, pull request 640.
    """

    per_byte = 5

    def __init__(self, *, group: int = 128) -> None:
        self.grid = TernaryGrid(group)

    def pack(self, codes: Array) -> Array:
        digits = np.pad(codes, (0, -codes.size % 5), constant_values=-1) + np.int8(1)
        return digits.astype(np.uint8).reshape(-1, 5) @ TRITS

    def unpack(self, packed: Array) -> Array:
        if (packed >= 243).any():
            raise DamagedError("a byte holds no five ternary codes")
        digits = packed[:, None] // TRITS % np.uint8(3)
        return digits.reshape(-1).astype(np.int8) - np.int8(1)


@register
class BinaryGroups(Groups):
    """Signs as bits, 1 for plus, the first one lowest. Source: openai/parameter-golf, pull request 641."""

    per_byte = 8

    def __init__(self, *, group: int = 128) -> None:
        self.grid = BinaryGrid(group)

    def pack(self, codes: Array) -> Array:
        return np.packbits(codes > 0, bitorder="little")

    def unpack(self, packed: Array) -> Array:
        bits = np.unpackbits(packed, bitorder="little")
        return bits.astype(np.int8) * np.int8(2) - np.int8(1)


@register
class Fp8(Codec):
    """8-bit floats, e4m3, held as uint8: for what is delicate and large. Source: openai/parameter-golf, pull request 640."""

    def __init__(self) -> None:
        self.grid = Float8Grid()

    def arrays(self, shape: Shape) -> Arrays:
        return {"values": (np.dtype(np.uint8), shape)}

    def encode(self, w: Tensor, stats: Any = None) -> Code:
        w = finite(w.detach().float().cpu(), "a weight is not finite")
        if (w.abs() > FLOAT8_TOP).any():
            raise BitgolfError("a weight is beyond 8-bit floats (448)", mend="use Float there, float16 or wider")
        return {"values": self.grid.round(w).contiguous().view(torch.uint8).numpy()}

    def decode(self, code: Code, shape: Shape) -> Tensor:
        self.check(code, shape)
        if ((code["values"] & 0x7F) == 0x7F).any():
            raise DamagedError("a value is not a number")
        return torch.from_numpy(code["values"]).view(torch.float8_e4m3fn).float()
