"""Training objectives. Scoring does not use them: it applies plain cross-entropy to the logits of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import FractionBelowOne, NonNegative, Range
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.interfaces import LogitsTransform, Objective
from bitgolf.model.linear import HeadLinear
from bitgolf.model.logits_transforms import Softcap
from bitgolf.model.numerics import at_least_float32
from bitgolf.model.part import build_chain


def token_nll(z: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each target in nats, (B, T), from logits z (B, T, V)."""
    return F.cross_entropy(at_least_float32(z).flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


def mean_nll(z: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood of targets (B, T) in nats, a scalar, from logits z (B, T, V)."""
    return F.cross_entropy(at_least_float32(z).flatten(0, 1), targets.flatten())


@register
class CrossEntropy(Objective):
    """Mean negative log-likelihood of the next token, in nats per token."""

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        return mean_nll(logits(x), targets)


class AuxiliaryLoss(Objective):
    """Cross-entropy of the next token, plus a term. `CombinedObjective` adds several such terms to one cross-entropy."""

    def term(self, x: Tensor, z: Tensor, targets: Tensor) -> Tensor:
        """The weighted term, a scalar, from states x (B, T, D), their logits z (B, T, V) and targets (B, T)."""
        raise NotImplementedError

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        z = logits(x)
        return mean_nll(z, targets) + self.term(x, z, targets)


@register
class CombinedObjective(Objective):
    """Cross-entropy of the next token, plus the terms of several objectives, for example multi-token and z-loss (#640).

    terms: objectives that add a term to the cross-entropy, which counts once. Raises `RecipeError` if there are none.
    """

    def __init__(self, context: BuildContext, /, *, terms: tuple[Spec[AuxiliaryLoss], ...]) -> None:
        super().__init__()
        if not terms:
            hint = "use CrossEntropy() for the next token alone"
            raise RecipeError("at least one objective is needed", where="CombinedObjective.terms", hint=hint)
        self.terms = build_chain(terms, context)

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        z = logits(x)
        terms = [cast(AuxiliaryLoss, p).term(x, z, targets) for p in self.terms]
        return sum(terms, mean_nll(z, targets))


@register
class LabelSmoothing(Objective):
    """Cross-entropy with the target (1 - smoothing) + smoothing / V, and smoothing / V for each other token.

    arXiv 1512.00567. Counter-productive in Parameter Golf #667, with a smoothing of 0.05.
    """

    def __init__(self, context: BuildContext, /, *, smoothing: FractionBelowOne = 0.05) -> None:
        super().__init__()
        self.smoothing = smoothing

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        z = at_least_float32(logits(x)).flatten(0, 1)
        return F.cross_entropy(z, targets.flatten(), label_smoothing=self.smoothing)


def future_token_nll(z: Tensor, targets: Tensor, offset: int, bos: int) -> Tensor:
    """Mean negative log-likelihood, in nats, of the targets (B, T) `offset` positions later.

    z: logits (B, T - offset, V). Pairs whose target lies behind the `bos` that ends the document are excluded; bos=-1
    excludes none. The result is 0 if all pairs are excluded.
    """
    starts = (targets == bos).long()
    before = starts.cumsum(1) - starts  # number of document starts before each target
    same = before[:, offset:] == before[:, :-offset]
    return (token_nll(z, targets[:, offset:]) * same).sum() / same.sum().clamp_min(1)


@register
class MultiTokenPrediction(AuxiliaryLoss):
    """Cross-entropy + weight * mean cross-entropy of `heads` further tokens (arXiv 2404.19737).

    Parameter Golf #287, #549. The heads predict the tokens `first_offset`, `first_offset` + 1, … positions after the
    next one, from the same state. Their matrices (V, D) are initialised to zero and have the role `head`. The heads
    belong to the objective, not to the model, and are not exported.

    logits_transforms: those of the model.  first_offset: 2 in #640, which skips the token after the next one and has no
    caps on these logits.  mask_starts: False also predicts across the end of a document, as in the published systems.
    Raises `RecipeError` if `heads` is below 1.
    """

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        heads: Annotated[int, Range(1, 64)] = 1,
        first_offset: Annotated[int, Range(1, 64)] = 1,
        weight: NonNegative = 0.2,
        logits_transforms: tuple[Spec[LogitsTransform], ...] = (part(Softcap),),
        mask_starts: bool = True,
        linear: Spec[HeadLinear] = part(HeadLinear),
    ) -> None:
        super().__init__()
        if heads < 1:
            raise RecipeError(
                f"must be at least 1, got {heads}",
                where="MultiTokenPrediction.heads",
                hint="use CrossEntropy to predict the next token only",
            )
        self.weight, self.first_offset, self.bos = weight, first_offset, context.bos if mask_starts else -1
        self.heads = nn.ModuleList(
            linear(context.for_matrix(context.dim, context.vocab, zero=True, name="head")) for _ in range(heads)
        )
        self.logits_transforms = build_chain(logits_transforms, context)

    def head_logits(self, head: nn.Module, x: Tensor) -> Tensor:
        """Logits (B, T, V) of one of the further heads from states x (B, T, D)."""
        z = at_least_float32(head(x))
        for p in self.logits_transforms:
            z = p(z)
        return z

    def term(self, x: Tensor, z: Tensor, targets: Tensor) -> Tensor:
        losses = [
            future_token_nll(self.head_logits(head, x[:, :-offset]), targets, offset, self.bos)
            for offset, head in enumerate(self.heads, self.first_offset)
        ]
        return self.weight * torch.stack(losses).mean()


@register
class SharedHeadMultiToken(AuxiliaryLoss):
    """Cross-entropy + weight * mean cross-entropy of the same logits against the `steps` tokens after the next one.

    Called "MTP" in the harness of Parameter Golf #1493, although it has no separate head. One prediction then has two
    or more different targets, which cost 0.025 bits per byte there with one step. It reproduces that result; for
    multi-token prediction use `MultiTokenPrediction`.
    """

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        weight: NonNegative = 0.2,
        steps: Annotated[int, Range(1, 64)] = 1,
        mask_starts: bool = True,
    ) -> None:
        super().__init__()
        self.weight, self.steps, self.bos = weight, steps, context.bos if mask_starts else -1

    def term(self, x: Tensor, z: Tensor, targets: Tensor) -> Tensor:
        offsets = range(1, self.steps + 1)
        losses = [future_token_nll(z[:, :-offset], targets, offset, self.bos) for offset in offsets]
        return self.weight * torch.stack(losses).mean()


@register
class EntropyWeightedLoss(Objective):
    """Mean of w_t * nll_t with w_t = clip(0.5 + H_t / mean(H), 0.5, 1.5), where H_t is the entropy of the prediction.

    No gradient flows through w. Parameter Golf #675. `normalised` divides w by its mean, so that equal entropies give
    plain cross-entropy. In the published form (False) equal entropies give a weight of 1.5, and the mean weight is
    almost always above 1, which inflates the gradient.
    """

    def __init__(self, context: BuildContext, /, *, normalised: bool = True) -> None:
        super().__init__()
        self.normalised = normalised

    @torch.no_grad()
    def weights(self, z: Tensor) -> Tensor:
        """Weights w (B, T) from logits z (B, T, V)."""
        log_p = at_least_float32(z).log_softmax(-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        w = (0.5 + entropy / entropy.mean().clamp_min(1e-8)).clamp(0.5, 1.5)
        return w / w.mean() if self.normalised else w

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        z = logits(x)
        return (self.weights(z) * token_nll(z, targets)).mean()


@register
class ZLoss(AuxiliaryLoss):
    """Cross-entropy + weight * mean(lse^2), where lse is the log-sum-exp of the logits.

    It keeps the normaliser of the softmax near 1, which no other term does. PaLM (arXiv 2204.02311); Parameter Golf
    #640.
    """

    def __init__(self, context: BuildContext, /, *, weight: NonNegative = 1e-4) -> None:
        super().__init__()
        self.weight = weight

    def term(self, x: Tensor, z: Tensor, targets: Tensor) -> Tensor:
        return self.weight * at_least_float32(z).logsumexp(-1).square().mean()
