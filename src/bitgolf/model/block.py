"""The residual block, and the two interfaces of what runs blocks: residual topology and layer schedule."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from bitgolf.config.build_context import Place
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.model.forward_context import Bus
from bitgolf.model.interfaces import Branch, Feed, Mixer, Norm, Skip, Stream, StreamPart, pair
from bitgolf.model.part import Part, chain
from bitgolf.model.residual import BranchScale, RMSNorm


@register
class Block(Part):
    """Pre-norm residual block: mix over time, then over channels."""

    def __init__(
        self,
        at: Place,
        /,
        *,
        mixer: Spec[Mixer],
        mlp: Spec[Feed],
        enter: tuple[Spec[StreamPart], ...] = (),
        norm: Spec[Norm] = part(RMSNorm),
        branch: tuple[Spec[Branch], ...] = (part(BranchScale),),
        leave: tuple[Spec[StreamPart], ...] = (),
    ) -> None:
        super().__init__()
        self.layer = at.layer
        self.enter = chain(enter, at)
        self.norm = norm(at)
        self.mixer = mixer(at)
        self.branch_mixer = chain(branch, at)
        self.mlp = mlp(at)
        self.beside = nn.ModuleList()  # of `Add`, parallel to the MLP: what a model learns while it is scored
        self.branch_mlp = chain(branch, at)
        self.leave = chain(leave, at)

    def mix(self, x: Tensor, bus: Bus) -> Tensor:
        """What the first branch adds to the stream."""
        y = self.mixer(self.norm(x), bus)
        for p in self.branch_mixer:
            y = p(y)
        return y

    def feed(self, x: Tensor) -> Tensor:
        """What the second branch adds."""
        x = self.norm(x)
        y = self.mlp(x)
        for p in self.beside:
            y = y + p(x)
        for p in self.branch_mlp:
            y = p(y)
        return y

    def forward(self, x: Tensor, bus: Bus) -> Tensor:
        for p in self.enter:
            x = p(x, bus)
        x = x + self.mix(x, bus)
        x = x + self.feed(x)
        for p in self.leave:
            x = p(x, bus)
        return x


class Wiring(Part):
    """How a block's two branches read and write the stream, or its two lanes. Other parts see one lane at a time."""

    def forward(self, x: Stream, bus: Bus, block: Block) -> Stream:
        """One visit of a block."""
        raise NotImplementedError

    def blend(self, x: Stream, skip: Skip, value: Stream, j: int, block: Block) -> Stream:
        """Let the j-th skip's value in, before a visit of this block: here into every lane that of the same lane."""
        if isinstance(x, tuple):
            first, second = pair(value)
            return skip(x[0], first, j), skip(x[1], second, j)
        return skip(x, pair(value)[0], j)

    def close(self, x: Stream) -> Tensor:
        """The stream after the last visit, (B, T, D)."""
        return pair(x)[0]


class Depth(Part):
    """Which blocks run, in which order, and what connects them."""

    def forward(self, x: Tensor, bus: Bus, blocks: Sequence[Block]) -> Tensor:
        raise NotImplementedError
