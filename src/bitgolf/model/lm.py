"""The whole model on one page. Techniques live in parts; this file has no flags."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.rope_scaling import RoPEScaling
from bitgolf.model.block import Block, LayerSchedule
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.head import Head
from bitgolf.model.interfaces import Norm, ResidualStreamPart, WeightSharing
from bitgolf.model.layer_schedule import SequentialLayers
from bitgolf.model.linear import Embedding
from bitgolf.model.part import Part, build_chain
from bitgolf.model.residual import EmbeddingNorm, RMSNorm

ResidualDtype = Literal["auto", "float32", "bfloat16"]


def residual_dtype(setting: ResidualDtype, embedded: Tensor) -> torch.dtype:
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

    `residual_dtype` is the type of the residual stream, set once after the embedding: every part keeps the type of its input.
    As `auto` it is bfloat16 where a GPU trains, as in the published scripts, and the parameters' own on a CPU.
    """

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        dim: int,
        layers: int,
        block: Spec[Block],
        head: Spec[Head],
        embed: Spec[Embedding] = part(Embedding),
        post_embed: tuple[Spec[ResidualStreamPart], ...] = (part(EmbeddingNorm),),
        layer_schedule: Spec[LayerSchedule] = part(SequentialLayers),
        norm: Spec[Norm] = part(RMSNorm),
        weight_sharing: tuple[Spec[WeightSharing], ...] = (),
        residual_dtype: ResidualDtype = "auto",
    ) -> None:
        super().__init__()
        context = context._replace(dim=dim, layers=layers)
        self.bos = context.bos
        self.residual_dtype: ResidualDtype = residual_dtype
        self.embed = embed(context)
        self.post_embed = build_chain(post_embed, context)
        self.blocks = nn.ModuleList(block(context._replace(layer=i)) for i in range(layers))
        for common in weight_sharing:
            common().tie(self.blocks)
        self.layer_schedule = layer_schedule(context)
        self.norm = norm(context)
        self.head = head(context)

    def forward_context(self, ids: Tensor, rope_scaling: RoPEScaling | None = None) -> ForwardContext:
        """What flows past the blocks when these ids, (B, T), are read at once, with this scaling of rotary positions."""
        return ForwardContext(ids, self.bos, rope_scaling)

    def hidden(self, context: ForwardContext) -> Tensor:
        """The normalised last state, (B, T, D), in the stream's type."""
        x = self.embed(context.ids)
        x = x.to(residual_dtype(self.residual_dtype, x))
        for p in self.post_embed:
            x = p(x, context)
        context.x0 = x
        return self.norm(self.layer_schedule(x, context, self.blocks))

    def logits(self, x: Tensor) -> Tensor:
        return self.head(x, self.embed)

    def forward(self, ids: Tensor) -> Tensor:
        return self.logits(self.hidden(self.forward_context(ids)))
