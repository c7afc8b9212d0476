"""Codecs of few bits: ternary, binary and 8-bit float weights, as `model.lowbit`'s views see them, and 4-bit integers.

Ternary and binary weights are stored with scales such that the view, applied to what was read back, finds the trained
weights again, up to the rounding of a scale to float16.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.config.spec import part
from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.grids.clip import MaxClip
from bitgolf.grids.integer import IntGrid
from bitgolf.grids.lowbit import FLOAT8_MAX, BinaryGrid, Float8Grid, GroupGrid, TernaryGrid
from bitgolf.grids.row_quantizer import RowQuantizer
from bitgolf.pack.streams import EncodedTensor
from bitgolf.quantize.codecs.bit_packing import BITS, NIBBLES, TRITS, BitmaskPacking, BitPacking
from bitgolf.quantize.codecs.codec import ArraySpecs, Codec, IntRows, Shape, require_finite
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.stats import MatrixStats


class GroupCodec(Codec):
    """Codes of less than a byte, packed, and one float16 scale for each group of the flattened tensor."""

    def __init__(self, grid: GroupGrid, packing: BitPacking) -> None:
        self.grid, self.packing = grid, packing

    def array_specs(self, shape: Shape) -> ArraySpecs:
        n = math.prod(shape)
        packed, groups = self.packing.packed_shape(n), (self.grid.group_count(n),)
        return {"codes": (np.dtype(np.uint8), packed), "scales": (np.dtype(np.float16), groups)}

    def encode(
        self, w: Tensor, stats: MatrixStats | None = None, session: EncodingSession | None = None
    ) -> EncodedTensor:
        codes, scales = self.grid.encode(require_finite(w.detach().float().cpu(), "a weight is not finite"))
        stored = require_finite(scales.half(), "a group needs a scale beyond float16 (65504)")
        return {"codes": self.packing.pack(codes.flatten().numpy()), "scales": stored.numpy()}

    def decode(self, code: EncodedTensor, shape: Shape) -> Tensor:
        self.check_layout(code, shape)
        codes, scales = self.packing.unpack(code["codes"], math.prod(shape)), torch.from_numpy(code["scales"]).float()
        if not (torch.isfinite(scales) & (scales >= 0)).all():
            raise CorruptFileError("a scale is negative or not finite")
        return self.grid.dequantize(torch.from_numpy(codes), scales).reshape(shape)


@register
class TernaryGroups(GroupCodec):
    """-1, 0, 1, and 16 / group bits a weight for the scales. Source: openai/parameter-golf, pull request 640.

    form: "digits" are base-3 digits, five to a byte; "bitmask" is a bitmap of what is not zero, and the signs. `RangeCoder`
    brings digits to their entropy, and the bitmask not near it; `LZMA` needs 0.5 % less for the bitmask once well over
    half of the codes are zero, and more otherwise. The source built both and kept the smaller; here a recipe says which,
    since the size of what is read back is known before its values are.
    """

    def __init__(self, *, group_size: int = 128, packing: Literal["digits", "bitmask"] = "digits") -> None:
        super().__init__(TernaryGrid(group_size), BitmaskPacking() if packing == "bitmask" else TRITS)


@register
class BinaryGroups(GroupCodec):
    """Signs as bits, 1 for plus, the first one lowest. Source: openai/parameter-golf, pull request 641."""

    def __init__(self, *, group_size: int = 128) -> None:
        super().__init__(BinaryGrid(group_size), BITS)


@register
class PackedInt4(Codec, RowQuantizer):
    """4-bit integers, 7 for the largest magnitude of a row, two to a byte as q + 8, and a float16 step for each row.

    No float, whatever openai/parameter-golf calls it (pull request 640). `FakeQuant(codec=PackedInt4())` trains with it.
    `IntRows(bits=4)` holds the same weights in a byte each, and is what a good coder makes fewer bytes of.
    """

    def __init__(self) -> None:
        self.rows = IntRows(bits=4, clip=part(MaxClip))
        self.grid, self.clip, self.prune = self.rows.grid, self.rows.clip, self.rows.prune

    def fake_quantize(self, w: Tensor) -> Tensor:
        return self.rows.fake_quantize(w)

    def int_grid_and_steps(self, code: EncodedTensor) -> tuple[IntGrid, Tensor]:
        return self.rows.int_grid_and_steps(code)

    def array_specs(self, shape: Shape) -> ArraySpecs:
        return self.rows.array_specs(shape) | {"codes": (np.dtype(np.uint8), NIBBLES.packed_shape(math.prod(shape)))}

    def encode(
        self, w: Tensor, stats: MatrixStats | None = None, session: EncodingSession | None = None
    ) -> EncodedTensor:
        code = self.rows.encode(w)
        return code | {"codes": NIBBLES.pack(code["codes"].reshape(-1))}

    def decode(self, code: EncodedTensor, shape: Shape) -> Tensor:
        self.check_layout(code, shape)
        rows = self.rows.array_specs(shape)["codes"][1]
        codes = NIBBLES.unpack(code["codes"], math.prod(shape)).reshape(rows)
        return self.rows.decode(code | {"codes": codes}, shape)


@register
class FP8(Codec):
    """8-bit floats, e4m3, held as uint8: for what is delicate and large. Source: openai/parameter-golf, pull request 640."""

    def __init__(self) -> None:
        self.grid = Float8Grid()

    def array_specs(self, shape: Shape) -> ArraySpecs:
        return {"values": (np.dtype(np.uint8), shape)}

    def encode(
        self, w: Tensor, stats: MatrixStats | None = None, session: EncodingSession | None = None
    ) -> EncodedTensor:
        w = require_finite(w.detach().float().cpu(), "a weight is not finite")
        if (w.abs() > FLOAT8_MAX).any():
            raise BitgolfError("a weight is beyond 8-bit floats (448)", hint="use Float there, float16 or wider")
        return {"values": self.grid.quantize(w).contiguous().view(torch.uint8).numpy()}

    def decode(self, code: EncodedTensor, shape: Shape) -> Tensor:
        self.check_layout(code, shape)
        if ((code["values"] & 0x7F) == 0x7F).any():
            raise CorruptFileError("a value is not a number")
        return torch.from_numpy(code["values"]).view(torch.float8_e4m3fn).float()
