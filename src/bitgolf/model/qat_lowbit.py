"""Weights of very few bits, in training and in scoring, and what #640 does to the input of an output projection.

Parameter Golf #640 (ternary), #641 (binary), after BitNet b1.58, arXiv 2402.17764. All matrices of attention and MLP are
ternary or binary, what else is large is `FakeFloat8`. Averaged weights are of no use here (spec, 5.5), nor is weight decay.
"""

from __future__ import annotations

from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.grids.lowbit import BinaryGrid, Float8Grid, TernaryGrid
from bitgolf.model.interfaces import Activation, AttentionOutputPart, WeightTransform
from bitgolf.model.mlp import SquaredReLU
from bitgolf.model.numerics import rms_norm
from bitgolf.model.qat import straight_through


class FakeLowBit(WeightTransform):
    """A weight as its grid has it; its gradient is that of the rounded weight."""

    grid: TernaryGrid | BinaryGrid | Float8Grid

    def forward(self, w: Tensor) -> Tensor:
        return straight_through(w, self.grid.fake_quantize(w))


@register
class FakeTernary(FakeLowBit):
    """-s, 0 or s, s the mean magnitude of the `group_size` weights around (#640). Stored by `TernaryGroups`."""

    def __init__(self, context: BuildContext, /, *, group_size: int = 128) -> None:
        super().__init__()
        self.grid = TernaryGrid(group_size)


@register
class FakeBinary(FakeLowBit):
    """-s or s (#641). Stored by `BinaryGroups`."""

    def __init__(self, context: BuildContext, /, *, group_size: int = 128) -> None:
        super().__init__()
        self.grid = BinaryGrid(group_size)


@register
class FakeFloat8(FakeLowBit):
    """8-bit floats, e4m3 (#640, for embeddings and small projections). Stored by `FP8`.

    There is no scale: a weight below 2**-10 counts as zero, so an embedding wants a standard deviation well above that.
    """

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()
        self.grid = Float8Grid()


@register
class AttentionOutputNorm(AttentionOutputPart):
    """Attention's output divided by its root mean square over all heads, H d values, before the output matrix (#640)."""

    def forward(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        return rms_norm(y.flatten(-2)).view(y.shape)


@register
class NormedActivation(Activation):
    """An activation whose output is divided by its root mean square over the hidden values (#640)."""

    def __init__(self, context: BuildContext, /, *, act: Spec[Activation] = part(SquaredReLU)) -> None:
        super().__init__()
        self.act = act(context)

    def forward(self, u: Tensor) -> Tensor:
        return rms_norm(self.act(u))
