"""The language model: embedding, blocks in the order of a layer schedule, final norm and head.

Every technique is a part; this module has no switches for techniques.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import LayerCount, Width
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
    """dtype of the residual stream. `auto` is the autocast dtype, or the dtype of the embeddings without autocast."""
    if setting != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[setting]
    kind = embedded.device.type
    if embedded.is_meta or not torch.is_autocast_enabled(kind):  # autocast does not support the meta device
        return embedded.dtype
    return torch.get_autocast_dtype(kind)


@register
class LM(Part):
    """Language model: token ids (B, T) -> logits (B, T, V), computed as `logits(hidden(context))`.

    post_embed, post_norm: parts between the embedding and the first block, and between the final norm and the head.
    The head is built with the width of the embedding's table as `BuildContext.fan_in`.

    residual_dtype: dtype of the residual stream, applied once after the embedding; every part keeps the dtype of its
    input. `auto` is bfloat16 in training on a GPU, as in the published scripts, and the parameters' dtype on a CPU.
    """

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        dim: Width,
        layers: LayerCount,
        block: Spec[Block],
        head: Spec[Head],
        embed: Spec[Embedding] = part(Embedding),
        post_embed: tuple[Spec[ResidualStreamPart], ...] = (part(EmbeddingNorm),),
        layer_schedule: Spec[LayerSchedule] = part(SequentialLayers),
        norm: Spec[Norm] = part(RMSNorm),
        post_norm: tuple[Spec[ResidualStreamPart], ...] = (),
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
        for sharing in weight_sharing:
            sharing().tie(self.blocks)
        self.layer_schedule = layer_schedule(context)
        self.norm = norm(context)
        self.post_norm = build_chain(post_norm, context)
        self.head = head(context._replace(fan_in=self.embed.weight.shape[1]))

    def forward_context(self, ids: Tensor, rope_scaling: RoPEScaling | None = None) -> ForwardContext:
        """Context of one forward pass over ids (B, T). `rope_scaling` replaces the scaling of every `RoPE`."""
        return ForwardContext(ids, self.bos, rope_scaling)

    def lookups(self, context: ForwardContext) -> tuple[tuple[Embedding, Tensor], ...]:
        return ((self.embed, context.ids),)

    def hidden(self, context: ForwardContext) -> Tensor:
        """Final hidden states, after the last norm and `post_norm`, (B, T, D), in the dtype of the residual stream."""
        x = self.embed(context.ids, context)
        x = x.to(residual_dtype(self.residual_dtype, x))
        for p in self.post_embed:
            x = p(x, context)
        context.x0 = x
        x = self.norm(self.layer_schedule(x, context, self.blocks))
        for p in self.post_norm:
            x = p(x, context)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """Logits (B, T, V) of final hidden states (B, T, D)."""
        return self.head(x, self.embed)

    def forward(self, ids: Tensor) -> Tensor:
        return self.logits(self.hidden(self.forward_context(ids)))
