"""Training objectives. Scoring knows none of them: it takes the model's logits, with plain cross-entropy."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.interfaces import LogitsTransform, Objective
from bitgolf.model.linear import HeadLinear
from bitgolf.model.logits_transforms import Softcap
from bitgolf.model.numerics import at_least_float32
from bitgolf.model.part import build_chain


def token_nll(z: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each target, (B, T), from logits (B, T, V)."""
    return F.cross_entropy(at_least_float32(z).flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


@register
class CrossEntropy(Objective):
    """Mean negative log-likelihood of the next token, in nats per token."""

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        return F.cross_entropy(at_least_float32(logits(x)).flatten(0, 1), targets.flatten())


def future_token_nll(z: Tensor, targets: Tensor, offset: int, bos: int) -> Tensor:
    """Mean nats of the targets (B, T) `offset` places later, from logits z (B, T - ahead, V); 0 where none counts.

    A document may predict the `bos` that ends it, and nothing behind: such pairs do not count. A bos of -1 counts all.
    """
    starts = (targets == bos).long()
    before = starts.cumsum(1) - starts  # document starts before each target, itself left out
    same = before[:, offset:] == before[:, :-offset]
    return (token_nll(z, targets[:, offset:]) * same).sum() / same.sum().clamp_min(1)


@register
class MultiTokenPrediction(Objective):
    """Cross-entropy + weight * its mean over `heads` further tokens (arXiv 2404.19737; Parameter Golf #287, #549).

    Head k (1 … heads), a matrix (V, D) started at zero, predicts from the state at t the token k places after the next.
    The heads train with the role `head` and are no part of the model, so they are not exported. Their logits pass the
    `caps`; give the model's own. `mask_starts=False`, as published, also predicts across the end of a document.
    """

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        heads: int = 1,
        weight: float = 0.2,
        caps: tuple[Spec[LogitsTransform], ...] = (part(Softcap),),
        mask_starts: bool = True,
        linear: Spec[HeadLinear] = part(HeadLinear),
    ) -> None:
        super().__init__()
        if heads < 1:
            raise RecipeError(
                f"{heads} heads predict nothing", where="MultiTokenPrediction.heads", hint="use CrossEntropy"
            )
        self.next_token_loss = CrossEntropy(context)
        self.weight, self.bos = weight, context.bos if mask_starts else -1
        self.heads = nn.ModuleList(
            linear(context.for_matrix(context.dim, context.vocab, zero=True, name="head")) for _ in range(heads)
        )
        self.caps = build_chain(caps, context)

    def head_logits(self, head: nn.Module, x: Tensor) -> Tensor:
        z = at_least_float32(head(x))
        for p in self.caps:
            z = p(z)
        return z

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        loss = self.next_token_loss(x, targets, logits)
        for ahead, head in enumerate(self.heads, 1):
            more = future_token_nll(self.head_logits(head, x[:, :-ahead]), targets, ahead, self.bos)
            loss = loss + self.weight / len(self.heads) * more
        return loss


@register
class SharedHeadMultiToken(Objective):
    """Cross-entropy + weight * that of the same logits against the token after the next.

    Called "MTP" in the harness of Parameter Golf #1493, though without a head of its own: two aims for one prediction,
    which cost 0.025 bits per byte there. Kept to reproduce that; `MultiTokenPrediction` is the real one.
    """

    def __init__(self, context: BuildContext, /, *, weight: float = 0.2, mask_starts: bool = True) -> None:
        super().__init__()
        self.weight, self.bos = weight, context.bos if mask_starts else -1

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        z = logits(x)
        return token_nll(z, targets).mean() + self.weight * future_token_nll(z[:, :-1], targets, 1, self.bos)


@register
class EntropyWeightedLoss(Objective):
    """Mean of w_t * nats_t, w_t = clip(0.5 + H_t / mean H, 0.5, 1.5) without gradient, H_t the prediction's entropy.

    Parameter Golf #675. `normalised` divides w by its mean, so that equal entropies give plain cross-entropy. The published form
    (False) does not: its weights are 1.5 there, and above 1 in the mean almost always, which inflates the gradient.
    """

    def __init__(self, context: BuildContext, /, *, normalised: bool = True) -> None:
        super().__init__()
        self.normalised = normalised

    @torch.no_grad()
    def weights(self, z: Tensor) -> Tensor:
        """(B, T), from logits (B, T, V)."""
        log_p = at_least_float32(z).log_softmax(-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        w = (0.5 + entropy / entropy.mean().clamp_min(1e-8)).clamp(0.5, 1.5)
        return w / w.mean() if self.normalised else w

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        z = logits(x)
        return (self.weights(z) * token_nll(z, targets)).mean()


@register
class ZLoss(Objective):
    """Cross-entropy + weight * mean lse^2, lse the log-sum-exp of the logits (PaLM, arXiv 2204.02311; Parameter Golf #640).

    It keeps the softmax's normaliser near 1, which no other term holds in place.
    """

    def __init__(self, context: BuildContext, /, *, weight: float = 1e-4) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        z = logits(x)
        return token_nll(z, targets).mean() + self.weight * at_least_float32(z).logsumexp(-1).square().mean()
