"""From the last hidden state to logits, and the training objective."""

from __future__ import annotations

from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.model.interfaces import LogitsTransform
from bitgolf.model.linear import Embedding, HeadLinear
from bitgolf.model.numerics import at_least_float32
from bitgolf.model.part import Part, build_chain


class LogitsFunction:
    """What an objective is handed: a last hidden state (B, T, D) -> logits (B, T, V); `untransformed` are those before the caps."""

    def __init__(self, head: Head, embed: Embedding) -> None:
        self.head, self.embed = head, embed

    def __call__(self, x: Tensor) -> Tensor:
        return self.head(x, self.embed)

    def untransformed(self, x: Tensor) -> Tensor:
        return self.head.untransformed_logits(x, self.embed)


class Head(Part):
    """(B, T, D) and the embedding -> logits (B, T, V): a projection, what is added to it, then the chain of caps.

    Logits are float32 from the caps on (float64 where they are that), whatever type the stream has.
    """

    logits_transforms: nn.ModuleList

    def __init__(self) -> None:
        super().__init__()
        self.adapters = nn.ModuleList()  # of `OutputAdapter`: what a model learns while it is scored

    def project(self, x: Tensor, embed: Embedding) -> Tensor:
        raise NotImplementedError

    def untransformed_logits(self, x: Tensor, embed: Embedding) -> Tensor:
        """Logits before the caps, in the type of the product."""
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
    """Logits x E^T from the embedding's own table (arXiv 1608.05859)."""

    def __init__(self, context: BuildContext, /, *, logits_transforms: tuple[Spec[LogitsTransform], ...] = ()) -> None:
        super().__init__()
        self.logits_transforms = build_chain(logits_transforms, context)

    def project(self, x: Tensor, embed: Embedding) -> Tensor:
        return embed.tied_logits(x)


@register
class UntiedHead(Head):
    """Logits from a matrix of its own, (V, D), started at zero."""

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
