"""Output heads: logits from final hidden states."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.model.interfaces import LogitsTransform
from bitgolf.model.linear import Embedding, HeadLinear
from bitgolf.model.numerics import at_least_float32
from bitgolf.model.part import Part, build_chain


class LogitsFunction:
    """The function from final hidden states (B, T, D) to logits (B, T, V) that an objective receives."""

    def __init__(self, head: Head, embed: Embedding) -> None:
        self.head, self.embed = head, embed

    def __call__(self, x: Tensor) -> Tensor:
        return self.head(x, self.embed)

    def untransformed(self, x: Tensor) -> Tensor:
        """Logits (B, T, V) before the logits transforms."""
        return self.head.untransformed_logits(x, self.embed)


class Head(Part):
    """Final hidden states (B, T, D) and the embedding -> logits (B, T, V): projection, adapters, logits transforms.

    Logits are float32 from the transforms on (float64 if the projection is float64), whatever the dtype of the stream.
    """

    logits_transforms: nn.ModuleList

    def __init__(self) -> None:
        super().__init__()
        self.adapters = nn.ModuleList()  # `OutputAdapter`s, attached for adaptation during scoring

    def project(self, x: Tensor, embed: Embedding) -> Tensor:
        """Logits (B, T, V) of the projection alone."""
        raise NotImplementedError

    def untransformed_logits(self, x: Tensor, embed: Embedding) -> Tensor:
        """Logits with adapters, before the logits transforms, in the dtype of the projection."""
        z = self.project(x, embed)
        for p in self.adapters:
            z = z + p(x)
        return z

    def forward(self, x: Tensor, embed: Embedding) -> Tensor:
        z = at_least_float32(self.untransformed_logits(x, embed))
        for p in self.logits_transforms:
            z = p(z)
        return z


@register
class TiedHead(Head):
    """Logits x E^T, E being the token embedding (arXiv 1608.05859)."""

    def __init__(self, context: BuildContext, /, *, logits_transforms: tuple[Spec[LogitsTransform], ...] = ()) -> None:
        super().__init__()
        self.logits_transforms = build_chain(logits_transforms, context)

    def project(self, x: Tensor, embed: Embedding) -> Tensor:
        return embed.tied_logits(x)


@register
class CorrectedTiedHead(TiedHead):
    """Logits x (E + C)^T with the token embedding E and a learned correction C of its shape, initialized to zero.

    C has the role `head`. Parameter Golf #640 (its `TIE_EMBEDDINGS=2`), with an Adam of its own for C.
    """

    roles = {"correction": "head"}
    identity_at_init = True

    def __init__(self, context: BuildContext, /, *, logits_transforms: tuple[Spec[LogitsTransform], ...] = ()) -> None:
        super().__init__(context, logits_transforms=logits_transforms)
        self.correction = nn.Parameter(torch.zeros(context.vocab, context.fan_in or context.dim))

    def project(self, x: Tensor, embed: Embedding) -> Tensor:
        return embed.tied_logits(x, self.correction)


@register
class UntiedHead(Head):
    """Logits x W^T with a separate matrix W (V, D), initialized to zero."""

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        logits_transforms: tuple[Spec[LogitsTransform], ...] = (),
        linear: Spec[HeadLinear] = part(HeadLinear),
    ) -> None:
        super().__init__()
        self.linear = linear(context.for_matrix(context.dim, context.vocab, zero=True, name="head"))
        self.logits_transforms = build_chain(logits_transforms, context)

    def project(self, x: Tensor, embed: Embedding) -> Tensor:
        return self.linear(x)
