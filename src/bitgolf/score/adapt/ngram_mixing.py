"""Mixing of a model with n-gram experts, normalised over the whole vocabulary.

Beginning with the model's distribution p, each expert is mixed in turn: p <- (1 - w) p + w p_expert. The experts of the
document come before those of the stream, each by increasing order with the longest match last. A convex combination of
distributions is a distribution. Evaluating a mixture at the true token only, as criticised in Parameter Golf #886 and
#978, does not give normalised probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgolf.config.ranges import InnerFraction, NGramOrder, Range, WindowTokens
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.model.attention.rope_scaling import RoPEScaling
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.score.adapt.mixing_weights import MixingWeights
from bitgolf.score.adapt.ngram_model import ExpertPredictions, NGramModel, concatenate_experts
from bitgolf.score.adapt.ngram_trie import Floats
from bitgolf.score.execution.forward import SelectKernels
from bitgolf.score.methods import ScoringMethod, SlidingScoring, TextBatch, TextSection
from bitgolf.score.player import AdaptationStep, Player, ScoringBatch, coding_player
from bitgolf.score.text import TokenizedText


@register
class NGramMixing(SlidingScoring):
    """Sliding windows mixed with exact n-gram counts and longest matches of the document and of the stream.

    document_orders, stream_orders: context lengths of the n-grams of the document and of the stream, increasing; () for
    none. history: maximum number of tokens kept; when it is reached, the older half is dropped.
    initial_weight: mixing weight of an expert before any update.
    isolated: no stream experts; counts and weights are reset at each document.
    method: a method that adapts, whose probabilities are mixed, and whose windows are used instead of `window` and
    `stride`. It must read the text in order: `DocumentLoRA` and `PhasedLoRA` with one row, `StreamSGD` on the stream.
    A single process reads the whole text in order, independent of the number of processes.
    """

    name = "mixed"
    omitted_at_default = ("method",)
    adapts = True
    native_only = "computes mixtures with functions of this machine's libraries"

    def __init__(
        self,
        *,
        window: WindowTokens = 1024,
        stride: WindowTokens = 64,
        isolated: bool = False,
        rope_scaling: Spec[RoPEScaling] | None = None,
        document_orders: tuple[NGramOrder, ...] = (1, 2, 3),
        stream_orders: tuple[NGramOrder, ...] = (2, 3, 4),
        history: Annotated[int, Range(2, 2**28)] = 1 << 20,
        initial_weight: InnerFraction = 0.05,
        method: Spec[ScoringMethod] | None = None,
    ) -> None:
        super().__init__(window=window, stride=stride, isolated=isolated, rope_scaling=rope_scaling)
        for key, orders in (("document_orders", document_orders), ("stream_orders", stream_orders)):
            if any(a >= b for a, b in pairwise((0, *orders))):
                cause = f"{key} must be increasing and at least 1, got {orders}"
                raise RecipeError(cause, where=f"score.{key}", hint="e.g. (2, 3, 4)")
        if not document_orders and (isolated or not stream_orders):
            cause = f"no n-grams to mix: document_orders is (), stream_orders {stream_orders}, isolated {isolated}"
            raise RecipeError(cause, where="score.document_orders", hint="e.g. (1, 2, 3)")
        if not 2 <= history <= 1 << 28:
            raise RecipeError(f"history must be from 2 to 2^28 tokens, got {history}", where="score.history")
        if not 0 < initial_weight < 1:
            cause = f"initial_weight must be between 0 and 1, got {initial_weight}"
            raise RecipeError(cause, where="score.initial_weight", hint="e.g. 0.05")
        self.document_orders, self.in_stream = document_orders, () if isolated else stream_orders
        self.history, self.initial_weight = history, initial_weight
        self.method = method() if method else None
        if self.method:
            self._take_windows(self.method)

    def _take_windows(self, method: ScoringMethod) -> None:
        """Use the windows and the order of a method. Raises `RecipeError` if it does not read the text in order."""
        if not method.reads_in_order:
            cause = f"method {method.name!r} reads several documents side by side, so nothing can be counted in order"
            hint = "lora or phased with rows=1 and without keep_a, or sgd that is not isolated"
            raise RecipeError(cause, where="score.method", hint=hint)
        self.window, self.stride, self.first_stride = method.window, method.stride, method.first_stride
        self.full_windows, self.order, self.rope_scaling = method.full_windows, method.order, method.rope_scaling

    @property
    def cross_document(self) -> bool:
        return not self.isolated or (self.method is not None and self.method.cross_document)

    @property
    def reads_in_order(self) -> bool:
        return True

    @property
    def serial(self) -> bool:
        return True

    def sections(self, text: TokenizedText, batch_tokens: int) -> Iterator[TextSection]:
        """One text batch: each step has the next windows of the stream side by side; or those of the method."""
        if self.method:
            yield from self.method.sections(text, batch_tokens)
            return
        windows = [[w] for start, stop in self.text_spans(text) for w in self.windows(stop - start, start)]
        yield TextSection(
            0, text.num_targets, [TextBatch(min(max(1, batch_tokens // self.window), len(windows)), windows)]
        )

    def make_player(
        self,
        model: LM,
        vocab: int,
        device: Device,
        distributed: DistributedContext,
        kernels: SelectKernels | None = None,
    ) -> NGramMixingPlayer:
        make = self.method.make_player if self.method else super().make_player
        inner = make(model, vocab, device, distributed, kernels)
        return NGramMixingPlayer(inner, model.bos, self)

    def warnings(self, text: TokenizedText) -> list[str]:
        return self.method.warnings(text) if self.method else []

    def without_adaptation(self) -> Spec[ScoringMethod] | None:
        if self.method:
            return self.method.without_adaptation()
        return part(
            SlidingScoring,
            window=self.window,
            stride=self.stride,
            isolated=self.isolated,
            rope_scaling=self.rope_scaling,
        )


class PendingTarget(NamedTuple):
    """Predictions for a token that is not yet revealed, from which the weights are updated later.

    log_p: (V,), of the model. predictions: of the experts. cells: (1, E), see `MixingWeights.bins`.
    """

    log_p: Tensor
    predictions: ExpertPredictions
    cells: NDArray[np.int64]


class NGramMixingPlayer:
    """A player whose predictions are mixed with those of n-gram experts.

    Batches must come in the order of the stream, each predicted once and then observed. At each position the weights
    are first updated with the token, then the token is counted, then the next one is predicted. All targets of a batch
    but the last are inputs of the batch too; the last one becomes known in `observe`.
    """

    def __init__(self, inner: Player, bos: int, method: NGramMixing) -> None:
        self.inner, self.bos, self.method, self.vocab = inner, bos, method, inner.vocab
        self.forward = inner.forward
        self.pending: PendingTarget | None = None
        self._reset()

    def _reset(self) -> None:
        kinds = (self.method.document_orders, self.bos), (self.method.in_stream, None)
        self.ngrams = [NGramModel(self.vocab, orders, self.method.history, bos) for orders, bos in kinds if orders]
        self.gates = MixingWeights(sum(counted.experts for counted in self.ngrams), self.method.initial_weight)

    def predict(self, block: ScoringBatch) -> Tensor:
        if self.pending:
            raise BitgolfError("predict was called again before observe of the previous batch", where="score")
        return self._mixed(self.inner.predict(block), block)

    def predict_next(self, block: ScoringBatch, *, begin: bool) -> Tensor:
        self._learn(block.tokens[block.target_mask][:1])
        return self._mixed(coding_player(self.inner).predict_next(block, begin=begin), block)

    def _mixed(self, logits: Tensor, block: ScoringBatch) -> Tensor:
        """Mix the experts into the model's logits (n, V) at the targets of a batch."""
        tokens = block.tokens[block.target_mask].cpu()
        starts = tokens == self.bos if self.method.isolated else torch.zeros(len(tokens), dtype=torch.bool)
        cuts = [0, *(i for i in starts.nonzero()[:, 0].tolist() if i), len(tokens)]
        return torch.cat([self._mix(logits[a:b], tokens[a:b], bool(starts[a])) for a, b in pairwise(cuts)])

    def _mix(self, logits: Tensor, tokens: Tensor, reset: bool) -> Tensor:
        """Mix the experts into the model's logits (n, V) after the stream's next n tokens."""
        if reset:
            self._reset()
        predictions, known = concatenate_experts([ngrams.read(tokens.numpy()) for ngrams in self.ngrams]), tokens[1:]
        logsumexp = logits.logsumexp(-1)
        entropy = logsumexp - (logits.softmax(-1) * logits).sum(-1)
        cells = self.gates.bins(predictions, to_numpy(entropy))
        log_p = logits[:-1].gather(1, known.to(logits.device)[:, None])[:, 0] - logsumexp[:-1]
        weights = self.gates.predict_and_update(cells, to_numpy(log_p.exp()), predictions.probability(known.numpy()))
        self.pending = PendingTarget(logits[-1] - logsumexp[-1], predictions.last(), cells[-1:])
        return mix_logits(logits, logsumexp, predictions, weights)

    def observe(self, block: ScoringBatch, targets: Tensor) -> None:
        self.inner.observe(block, targets)
        self._learn(targets[-1:])

    def _learn(self, target: Tensor) -> None:
        """Update the weights with the token (1,) that was pending, if there is one."""
        if self.pending:
            target, (log_p, predictions, cells) = target.cpu(), self.pending
            p = log_p[target.to(log_p.device)].exp()
            self.gates.predict_and_update(cells, to_numpy(p), predictions.probability(target.numpy()))
        self.pending = None

    def adapt(self, revealed: Tensor, step: AdaptationStep) -> None:
        self.inner.adapt(revealed, step)

    def close(self) -> None:
        self.inner.close()


def to_numpy(x: Tensor) -> Floats:
    return x.double().cpu().numpy()


def mix_logits(logits: Tensor, logsumexp: Tensor, predictions: ExpertPredictions, weights: Floats) -> Tensor:
    """Logits (n, V) of the mixture p <- (1 - w) p + w p_expert, applied for each expert in turn.

    logsumexp: (n,), of `logits`; that of the result is the same. weights: (n, E); if all are 0, the result is `logits`.
    """
    kept = np.cumprod(1 - weights[:, ::-1], 1)[:, ::-1]  # share that an expert and all later ones leave to earlier ones
    shares = weights * np.append(kept[:, 1:], np.ones((len(kept), 1)), 1)
    row, expert, token, p = predictions.successors
    indices = tuple(torch.from_numpy(index).long().to(logits.device) for index in (row, token))
    mass = torch.from_numpy(shares[row, expert] * p).to(logits)
    added = torch.zeros_like(logits).index_put_(indices, mass, accumulate=True)
    model = torch.from_numpy(np.log(kept[:, :1])).to(logits)
    return torch.logaddexp(logits + model, added.log() + logsumexp[:, None])
