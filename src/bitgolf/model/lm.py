"""The whole model on one page. Techniques live in parts; this file has no flags."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from bitgolf.config.spec import Place, Spec, part, register
from bitgolf.model.head import Head
from bitgolf.model.interfaces import Branch, Depth, Feed, Mixer, Norm, Share, StreamPart
from bitgolf.model.layer_schedule import Straight
from bitgolf.model.linear import Embedding
from bitgolf.model.part import Bus, Part, chain
from bitgolf.model.residual import BranchScale, Normalize, RMSNorm


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

    def bus(self, ids: Tensor) -> Bus:
        """What flows past the blocks when these ids, (B, T), are read at once."""
        return Bus(ids, self.bos)

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
