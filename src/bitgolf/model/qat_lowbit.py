"""Fake quantization to ternary, binary, 4-bit and 8-bit weights, and norms on the inputs of the output projections.

Parameter Golf #640 (ternary) and #641 (binary), after BitNet b1.58 (arXiv 2402.17764). The matrices of attention and
MLP are ternary or binary, other large tensors use `FakeFloat8`. #640 and #641 report that weight averaging (EMA) and
weight decay do harm. Unlike the transforms of `qat`, these act in training and in scoring.
"""

from __future__ import annotations

from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import Width
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.grids.lowbit import BinaryGrid, Float8Grid, Int4Grid, TernaryGrid
from bitgolf.model.interfaces import Activation, AttentionOutputPart, WeightTransform
from bitgolf.model.mlp import SquaredReLU
from bitgolf.model.numerics import rms_norm
from bitgolf.model.qat import straight_through


class FakeLowBit(WeightTransform):
    """A weight rounded to a grid, with a straight-through gradient."""

    grid: TernaryGrid | BinaryGrid | Float8Grid | Int4Grid

    def forward(self, w: Tensor) -> Tensor:
        return straight_through(w, self.grid.fake_quantize(w))


@register
class FakeTernary(FakeLowBit):
    """-s, 0 or s with s the mean magnitude of each group of `group_size` weights (#640). Stored by `TernaryGroups`."""

    def __init__(self, context: BuildContext, /, *, group_size: Width = 128) -> None:
        super().__init__()
        self.grid = TernaryGrid(group_size)


@register
class FakeBinary(FakeLowBit):
    """-s or s with s the mean magnitude of each group of `group_size` weights (#641). Stored by `BinaryGroups`."""

    def __init__(self, context: BuildContext, /, *, group_size: Width = 128) -> None:
        super().__init__()
        self.grid = BinaryGrid(group_size)


@register
class FakeFloat8(FakeLowBit):
    """8-bit floats, e4m3 (#640, for embeddings and small projections). Stored by `FP8`.

    There is no scale, and magnitudes below 2**-10 become zero. An embedding should have a standard deviation well
    above.
    """

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()
        self.grid = Float8Grid()


@register
class FakeInt4(FakeLowBit):
    """-7 to 7 times a step per row, its largest magnitude divided by 7 (#640, which calls it FP4). Stored by `PackedInt4`.

    The steps are not rounded. `FakeQuant(codec=PackedInt4())` is the same in training only, with rounded steps.
    """

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()
        self.grid = Int4Grid()


@register
class AttentionOutputNorm(AttentionOutputPart):
    """RMS normalization of the attention output over all heads (H d values), before the output projection (#640)."""

    def forward(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        return rms_norm(y.flatten(-2)).view(y.shape)


@register
class NormedActivation(Activation):
    """An activation followed by RMS normalization over the hidden dimension, before the down projection (#640)."""

    def __init__(self, context: BuildContext, /, *, act: Spec[Activation] = part(SquaredReLU)) -> None:
        super().__init__()
        self.act = act(context)

    def forward(self, u: Tensor) -> Tensor:
        return rms_norm(self.act(u))
