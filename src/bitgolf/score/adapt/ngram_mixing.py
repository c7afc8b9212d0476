"""The model mixed with what followed the same tokens before, normalised over the whole vocabulary.

Each expert in turn takes its share of the distribution so far: p <- (1 - w) p + w p_expert; the model first, then the
counts of the document, those of the stream last, each by rising order and then the match. Convex combinations of
distributions are distributions, so nothing has to be evaluated for the true token alone (Parameter Golf #886, #978:
what is not normalised is no probability).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.model.attention.rope_scaling import RoPEScaling
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.score.adapt.ngram_model import ExpertPredictions, NGramModel, concatenate_experts
from bitgolf.score.adapt.ngram_trie import Floats
from bitgolf.score.execution.forward import SelectKernels
from bitgolf.score.methods import SlidingScoring, TextBatch, TextSection
from bitgolf.score.player import AdaptationStep, Player, ScoringBatch
from bitgolf.score.text import TokenizedText

ENTROPY_BINS, COUNT_BINS, SPREAD_BINS = (
    8,
    6,
    4,
)  # of the model's entropy, of what an expert has seen, of how it is spread
MAX_COUNT = 256  # targets that a gate's mean goes back; it never gives an expert more than 1 - 1 / MAX_COUNT
PRIOR_COUNT = 2.0  # targets that a gate's first weight counts for


@register
class NGramMixing(SlidingScoring):
    """A sliding window, mixed with exact counts of n-grams, and longest matches, of the document and of the stream.

    document_orders, stream_orders: lengths of the contexts that are counted in each, rising; () for none. history: tokens
    that are remembered, at least half of them at any time. initial_weight: the weight that an expert begins with.
    `isolated`: there is no stream, and each document begins anew, gates included. Else what came before counts. One
    process reads it all in its order, however many there are.
    """

    name = "mixed"
    adapts = True

    def __init__(
        self,
        *,
        window: int = 1024,
        stride: int = 64,
        isolated: bool = False,
        rope_scaling: Spec[RoPEScaling] | None = None,
        document_orders: tuple[int, ...] = (1, 2, 3),
        stream_orders: tuple[int, ...] = (2, 3, 4),
        history: int = 1 << 20,
        initial_weight: float = 0.05,
    ) -> None:
        super().__init__(window=window, stride=stride, isolated=isolated, rope_scaling=rope_scaling)
        for key, orders in (("document_orders", document_orders), ("stream_orders", stream_orders)):
            if any(a >= b for a, b in pairwise((0, *orders))):
                raise RecipeError(f"orders {orders} do not rise from 1 or more", where=f"score.{key}", hint="(2, 3, 4)")
        if not document_orders and (isolated or not stream_orders):
            raise RecipeError("there is nothing to mix with", where="score.document_orders", hint="(1, 2, 3)")
        if not 2 <= history <= 1 << 28:
            raise RecipeError(f"a memory of {history} tokens", where="score.history", hint="from 2 to 2^28")
        if not 0 < initial_weight < 1:
            raise RecipeError(
                f"a weight of {initial_weight} is not between 0 and 1", where="score.initial_weight", hint="0.05"
            )
        self.document_orders, self.in_stream = document_orders, () if isolated else stream_orders
        self.history, self.initial_weight = history, initial_weight

    def sections(self, text: TokenizedText, batch_tokens: int) -> Iterator[TextSection]:
        """One track: round after round, the next windows of the stream side by side."""
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
        inner = super().make_player(model, vocab, device, distributed, kernels)
        return NGramMixingPlayer(inner, model.bos, self)

    def without_adaptation(self) -> Spec[SlidingScoring]:
        return part(
            SlidingScoring,
            window=self.window,
            stride=self.stride,
            isolated=self.isolated,
            rope_scaling=self.rope_scaling,
        )


class PendingTarget(NamedTuple):
    """What was said of a token that is not known yet: the model's log p, (V,), and the experts' cells."""

    log_p: Tensor
    predictions: ExpertPredictions
    cells: NDArray[np.int64]


class NGramMixingPlayer:
    """A player mixed with the experts. Blocks are the stream in order, each predicted once and then observed.

    The tokens at which a block asks are the stream's next ones: position after position is first learned from, then
    counted, then predicted from. A token is known when it is shown, and the last target of a block when it is observed.
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
            raise BitgolfError("a block is predicted before the last one was observed", where="score")
        logits, tokens = self.inner.predict(block), block.tokens[block.target_mask].cpu()
        starts = tokens == self.bos if self.method.isolated else torch.zeros(len(tokens), dtype=torch.bool)
        cuts = [0, *(i for i in starts.nonzero()[:, 0].tolist() if i), len(tokens)]
        return torch.cat([self._mix(logits[a:b], tokens[a:b], bool(starts[a])) for a, b in pairwise(cuts)])

    def _mix(self, logits: Tensor, tokens: Tensor, reset: bool) -> Tensor:
        """The stream's next n tokens and what the model says after them, (n, V)."""
        if reset:
            self._reset()
        said, known = concatenate_experts([counted.read(tokens.numpy()) for counted in self.ngrams]), tokens[1:]
        whole = logits.logsumexp(-1)
        entropy = whole - (logits.softmax(-1) * logits).sum(-1)
        cells = self.gates.bins(said, to_numpy(entropy))
        chance = logits[:-1].gather(1, known.to(logits.device)[:, None])[:, 0] - whole[:-1]
        weights = self.gates.predict_and_update(cells, to_numpy(chance.exp()), said.probability(known.numpy()))
        self.pending = PendingTarget(logits[-1] - whole[-1], said.last(), cells[-1:])
        return mix_logits(logits, whole, said, weights)

    def observe(self, block: ScoringBatch, targets: Tensor) -> None:
        self.inner.observe(block, targets)
        if self.pending:
            target, (log_p, said, cells) = targets[-1:].cpu(), self.pending
            chance = log_p[target.to(log_p.device)].exp()
            self.gates.predict_and_update(cells, to_numpy(chance), said.probability(target.numpy()))
        self.pending = None

    def adapt(self, revealed: Tensor, step: AdaptationStep) -> None:
        self.inner.adapt(revealed, step)

    def close(self) -> None:
        self.inner.close()


def to_numpy(x: Tensor) -> Floats:
    return x.double().cpu().numpy()


def mix_logits(logits: Tensor, logsumexp: Tensor, predictions: ExpertPredictions, weights: Floats) -> Tensor:
    """log((1 - w) p + w p_expert), expert after expert; the logits (n, V) themselves where all weights are zero.

    whole: their logsumexp, (n,), which stays that of what is returned. weights: (n, E).
    """
    kept = np.cumprod(1 - weights[:, ::-1], 1)[:, ::-1]  # by an expert and all that follow
    shares = weights * np.append(kept[:, 1:], np.ones((len(kept), 1)), 1)
    row, expert, token, p = predictions.successors
    places = tuple(torch.from_numpy(index).long().to(logits.device) for index in (row, token))
    mass = torch.from_numpy(shares[row, expert] * p).to(logits)
    added = torch.zeros_like(logits).index_put_(places, mass, accumulate=True)
    model = torch.from_numpy(np.log(kept[:, :1])).to(logits)
    return torch.logaddexp(logits + model, added.log() + logsumexp[:, None])


class MixingWeights:
    """How much each expert may say: a weight for each cell of what is known before the token is.

    A cell is the expert, the whole bits of the model's entropy, how often the context was there (or how long the match
    is) and how many tokens share its counts. Its weight is the mean of the shares that the expert had in what the
    mixture gave to the tokens that came: the natural gradient of their cost, with 1 / n as the rate.
    """

    def __init__(self, experts: int, trust: float) -> None:
        size = experts * ENTROPY_BINS * COUNT_BINS * SPREAD_BINS
        self.weight, self.count = np.full(size, trust), np.full(size, PRIOR_COUNT)

    def bins(self, said: ExpertPredictions, entropy: Floats) -> NDArray[np.int64]:
        """(n, E): the cell of each expert, -1 where it is silent. entropy: (n,), nats."""
        total, kinds = np.maximum(said.total, 1), np.maximum(said.distinct, 1)
        count = np.minimum(np.log2(total).astype(np.int64), COUNT_BINS - 1)
        spread = np.where(kinds == 1, 0, 3 - (total >= 2 * kinds) - (total >= 4 * kinds))
        band = np.clip((entropy / np.log(2)).astype(np.int64), 0, ENTROPY_BINS - 1)[:, None]
        expert = np.arange(total.shape[1])
        cells = ((expert * ENTROPY_BINS + band) * COUNT_BINS + count) * SPREAD_BINS + spread
        return np.where(said.total > 0, cells, -1)

    def predict_and_update(
        self, cells: NDArray[np.int64], model_probability: Floats, expert_probability: Floats
    ) -> Floats:
        """(n, E): each expert's weight at each position, all learned before it.

        chance (k,), hits (k, E): what model and experts gave to the tokens that are known, k <= n.
        """
        out = np.zeros(cells.shape)
        jit_update_weights()(self.weight, self.count, cells, model_probability, expert_probability, out)
        return out


def update_weights(
    weight: Floats, seen: Floats, cells: NDArray[np.int64], chance: Floats, hits: Floats, out: Floats
) -> None:
    """Position after position: fill its weights, then learn from its token where that is known."""
    top = 1 - 1 / MAX_COUNT
    for t in range(len(cells)):
        for e in range(cells.shape[1]):
            if cells[t, e] >= 0:
                out[t, e] = weight[cells[t, e]]
        if t >= len(chance):
            continue
        p = max(chance[t], 1e-300)
        for e in range(cells.shape[1]):
            cell = cells[t, e]
            if cell >= 0:
                part = weight[cell] * hits[t, e]
                p = (1 - weight[cell]) * p + part
                seen[cell] = min(seen[cell] + 1, MAX_COUNT)
                weight[cell] = min(weight[cell] + (part / p - weight[cell]) / seen[cell], top)


@cache
def jit_update_weights() -> Callable[..., None]:
    """`update_weights` in machine code."""
    import numba

    jit: Any = numba.njit(nogil=True, cache=False, fastmath=False)
    return jit(update_weights)
