"""The whole model on one page. Techniques live in parts; this file has no flags."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import Place
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.rope_scaling import Scaling
from bitgolf.model.block import Block, Depth
from bitgolf.model.forward_context import Bus
from bitgolf.model.head import Head
from bitgolf.model.interfaces import Norm, Share, StreamPart
from bitgolf.model.layer_schedule import Straight
from bitgolf.model.linear import Embedding
from bitgolf.model.part import Part, chain
from bitgolf.model.residual import Normalize, RMSNorm

StreamType = Literal["auto", "float32", "bfloat16"]


def stream_type(setting: StreamType, embedded: Tensor) -> torch.dtype:
    """Type of the residual stream. `auto`: that of autocast where it is on, else that of the embeddings."""
    if setting != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[setting]
    kind = embedded.device.type
    if embedded.is_meta or not torch.is_autocast_enabled(kind):  # autocast does not know the meta device
        return embedded.dtype
    return torch.get_autocast_dtype(kind)


@register
class LM(Part):
    """Token ids (B, T) -> logits (B, T, V). `hidden` and `logits` are its two halves.

    `stream` is the type of the residual stream, set once after the embedding: every part keeps the type of its input.
    As `auto` it is bfloat16 where a GPU trains, as in the published scripts, and the parameters' own on a CPU.
    """

    def __init__(
        self,
        at: Place,
        /,
        *,
        dim: int,
        layers: int,
        block: Spec[Block],
        head: Spec[Head],
        embed: Spec[Embedding] = part(Embedding),
        enter: tuple[Spec[StreamPart], ...] = (part(Normalize),),
        depth: Spec[Depth] = part(Straight),
        norm: Spec[Norm] = part(RMSNorm),
        share: tuple[Spec[Share], ...] = (),
        stream: StreamType = "auto",
    ) -> None:
        super().__init__()
        at = at._replace(dim=dim, layers=layers)
        self.bos = at.bos
        self.stream: StreamType = stream
        self.embed = embed(at)
        self.enter = chain(enter, at)
        self.blocks = nn.ModuleList(block(at._replace(layer=i)) for i in range(layers))
        for common in share:
            common().tie(self.blocks)
        self.depth = depth(at)
        self.norm = norm(at)
        self.head = head(at)

    def bus(self, ids: Tensor, rope_scaling: Scaling | None = None) -> Bus:
        """What flows past the blocks when these ids, (B, T), are read at once, with this scaling of rotary positions."""
        return Bus(ids, self.bos, rope_scaling)

    def hidden(self, bus: Bus) -> Tensor:
        """The normalised last state, (B, T, D), in the stream's type."""
        x = self.embed(bus.ids)
        x = x.to(stream_type(self.stream, x))
        for p in self.enter:
            x = p(x, bus)
        bus.x0 = x
        return self.norm(self.depth(x, bus, self.blocks))

    def logits(self, x: Tensor) -> Tensor:
        return self.head(x, self.embed)

    def forward(self, ids: Tensor) -> Tensor:
        return self.logits(self.hidden(self.bus(ids)))
