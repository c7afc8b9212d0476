"""The residual block, and the interfaces of the parts that run blocks: `ResidualTopology` and `LayerSchedule`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import (
    FeedForward,
    Norm,
    ResidualScale,
    ResidualStream,
    ResidualStreamPart,
    SkipConnection,
    TokenMixer,
    as_lanes,
)
from bitgolf.model.part import Part, build_chain
from bitgolf.model.residual import LayerScale, RMSNorm


@register
class Block(Part):
    """Pre-norm residual block: token mixer, then MLP; (B, T, D) -> (B, T, D)."""

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        mixer: Spec[TokenMixer],
        mlp: Spec[FeedForward],
        pre_block: tuple[Spec[ResidualStreamPart], ...] = (),
        norm: Spec[Norm] = part(RMSNorm),
        residual_scale: tuple[Spec[ResidualScale], ...] = (part(LayerScale),),
        post_block: tuple[Spec[ResidualStreamPart], ...] = (),
    ) -> None:
        super().__init__()
        self.layer = context.layer
        self.pre_block = build_chain(pre_block, context)
        self.norm = norm(context)
        self.mixer = mixer(context)
        self.mixer_adapters = nn.ModuleList()  # `OutputAdapter`s, attached for adaptation during scoring
        self.mixer_scale = build_chain(residual_scale, context)
        self.mlp = mlp(context)
        self.mlp_adapters = nn.ModuleList()  # `OutputAdapter`s, attached for adaptation during scoring
        self.mlp_scale = build_chain(residual_scale, context)
        self.post_block = build_chain(post_block, context)

    def mixer_branch(self, x: Tensor, context: ForwardContext) -> Tensor:
        """Output of the mixer branch, (B, T, D), to be added to the stream."""
        x = self.norm(x)
        y = self.mixer(x, context)
        for p in self.mixer_adapters:
            y = y + p(x)
        for p in self.mixer_scale:
            y = p(y)
        return y

    def mlp_branch(self, x: Tensor) -> Tensor:
        """Output of the MLP branch, (B, T, D), to be added to the stream."""
        x = self.norm(x)
        y = self.mlp(x)
        for p in self.mlp_adapters:
            y = y + p(x)
        for p in self.mlp_scale:
            y = p(y)
        return y

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        for p in self.pre_block:
            x = p(x, context)
        x = x + self.mixer_branch(x, context)
        x = x + self.mlp_branch(x)
        for p in self.post_block:
            x = p(x, context)
        return x


class ResidualTopology(Part):
    """How the two branches of a block read and write the residual stream or its two lanes.

    Other parts receive one lane at a time.
    """

    def forward(self, x: ResidualStream, context: ForwardContext, block: Block) -> ResidualStream:
        """Execute a block once."""
        raise NotImplementedError

    def merge_skip(
        self, x: ResidualStream, skip: SkipConnection, saved: ResidualStream, j: int, block: Block
    ) -> ResidualStream:
        """Merge the saved stream of skip j before this block is executed; by default lane by lane."""
        if isinstance(x, tuple):
            first, second = as_lanes(saved)
            return skip(x[0], first, j), skip(x[1], second, j)
        return skip(x, as_lanes(saved)[0], j)

    def merge_lanes(self, x: ResidualStream) -> Tensor:
        """The stream after the last block as one tensor, (B, T, D)."""
        return as_lanes(x)[0]


class LayerSchedule(Part):
    """Which blocks are executed, in which order, and with which skip connections: (B, T, D) -> (B, T, D)."""

    def forward(self, x: Tensor, context: ForwardContext, blocks: Sequence[Block]) -> Tensor:
        raise NotImplementedError
