"""Low-bit codecs: ternary and binary groups, packed 4-bit integers, and 8-bit floats.

They match the weight transforms of `model.qat_lowbit`. Stored scales are chosen such that the transform, applied to
decoded ternary or binary weights, reproduces the weights of training up to the rounding of scales to float16.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bitgolf.config.ranges import Width
from bitgolf.config.registry import register
from bitgolf.config.spec import part
from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.grids.clip import MaxClip
from bitgolf.grids.integer import IntGrid
from bitgolf.grids.lowbit import FLOAT8_MAX, BinaryGrid, Float8Grid, GroupGrid, PaddedTernaryGrid, TernaryGrid
from bitgolf.grids.row_quantizer import RowQuantizer
from bitgolf.pack.streams import EncodedTensor
from bitgolf.quantize.codecs.bit_packing import BITS, NIBBLES, TRITS, BitmaskPacking, BitPacking
from bitgolf.quantize.codecs.codec import ArraySpecs, Codec, IntRows, Shape, require_finite
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.stats import MatrixStats


class GroupCodec(Codec):
    """Bit-packed codes, and one float16 scale for each group of consecutive weights of the flattened tensor."""

    def __init__(self, grid: GroupGrid, packing: BitPacking) -> None:
        self.grid, self.packing = grid, packing

    def array_specs(self, shape: Shape) -> ArraySpecs:
        n = math.prod(self.grid.stored_shape(shape))
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
        stored, scales = self.grid.stored_shape(shape), torch.from_numpy(code["scales"]).float()
        codes = torch.from_numpy(self.packing.unpack(code["codes"], math.prod(stored)))
        if not (torch.isfinite(scales) & (scales >= 0)).all():
            raise CorruptFileError(
                f"a scale is negative or not finite (the scales are {scales.min():g} to {scales.max():g})"
            )
        columns = shape[-1] if shape else 1
        rows, w = codes.view(-1, stored[-1] if stored else 1), self.grid.dequantize(codes, scales)
        if rows[:, columns:].any():
            raise CorruptFileError("a code beyond the end of a row is not zero")
        return w.view(rows.shape)[:, :columns].reshape(shape)


@register
class TernaryGroups(GroupCodec):
    """Ternary weights -1, 0, 1 times a scale per group; scales take 16 / `group_size` bits per weight.

    packing: "digits" stores five base-3 digits per byte; "bitmask" stores a bitmap of the nonzero codes, and the signs.
    `RangeCoder` codes digits at their entropy, but not the bitmask. `LZMA` needs 0.5 % less for the bitmask if well
    over half of the codes are zero, and more otherwise.
    padded_rows: no group has weights of two rows, and each row is padded to whole groups, as published; see
    `PaddedTernaryGrid`. Otherwise groups are consecutive in the flattened tensor.
    Source: openai/parameter-golf, pull request 640, which wrote both packings and kept the smaller. Here the recipe
    chooses, since the shapes of all arrays must be known before the artifact is read.
    """

    def __init__(
        self,
        *,
        group_size: Width = 128,
        packing: Literal["digits", "bitmask"] = "digits",
        padded_rows: bool = False,
    ) -> None:
        grid = PaddedTernaryGrid(group_size) if padded_rows else TernaryGrid(group_size)
        super().__init__(grid, BitmaskPacking() if packing == "bitmask" else TRITS)


@register
class BinaryGroups(GroupCodec):
    """Binary weights -1, 1 times a scale per group; eight signs per byte, 1 for plus, the first in the lowest bit.

    Source: openai/parameter-golf, pull request 641.
    """

    def __init__(self, *, group_size: Width = 128) -> None:
        super().__init__(BinaryGrid(group_size), BITS)


@register
class PackedInt4(Codec, RowQuantizer):
    """4-bit integers q, two per byte as q + 8, and a float16 step per row: its largest magnitude divided by 7.

    Codes are computed with the step before it is rounded.

    Source: openai/parameter-golf, pull request 640, which calls this format FP4. `FakeQuant(codec=PackedInt4())` trains
    with it. `IntRows(bits=4, scale_rounding="after")` stores the same values in one byte each, which an entropy coder compresses further.
    """

    def __init__(self) -> None:
        self.rows = IntRows(bits=4, clip=part(MaxClip), scale_rounding="after")
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
    """8-bit floats (e4m3) stored as uint8, for sensitive tensors that are large.

    Source: openai/parameter-golf, pull request 640.
    """

    def __init__(self) -> None:
        self.grid = Float8Grid()

    def array_specs(self, shape: Shape) -> ArraySpecs:
        return {"values": (np.dtype(np.uint8), shape)}

    def encode(
        self, w: Tensor, stats: MatrixStats | None = None, session: EncodingSession | None = None
    ) -> EncodedTensor:
        w = require_finite(w.detach().float().cpu(), "a weight is not finite")
        if (w.abs() > FLOAT8_MAX).any():
            raise BitgolfError(
                f"a weight of magnitude {w.abs().max():g} is beyond the range of 8-bit floats ({FLOAT8_MAX:g})",
                hint="use Float(dtype='float16') or wider for this tensor",
            )
        return {"values": self.grid.quantize(w).contiguous().view(torch.uint8).numpy()}

    def decode(self, code: EncodedTensor, shape: Shape) -> Tensor:
        self.check_layout(code, shape)
        if ((code["values"] & 0x7F) == 0x7F).any():
            raise CorruptFileError("a stored 8-bit float is NaN")
        return torch.from_numpy(code["values"]).view(torch.float8_e4m3fn).float()
