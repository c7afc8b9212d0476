"""The weights with which n-gram experts are mixed into a model, learned from each token after it is scored."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from bitgolf.score.adapt.ngram_model import ExpertPredictions
from bitgolf.score.adapt.ngram_trie import Floats

ENTROPY_BINS, COUNT_BINS, SPREAD_BINS = 8, 6, 4  # of the model's entropy, the context's count, its number of successors
MAX_COUNT = 256  # maximum count in the running mean of a weight, which is also limited to 1 - 1 / MAX_COUNT
PRIOR_COUNT = 2.0  # count of the initial weight in the running mean


class MixingWeights:
    """Mixing weights of the experts: one weight for each cell of features that are known before the token.

    A cell is given by the expert, the model's entropy in whole bits, the count of the context (or the length of the
    match), and the number of distinct successors. The weight of a cell is the running mean of the expert's share in the
    mixture's probability of the actual token: the natural gradient of the bits, with rate 1 / n.
    """

    def __init__(self, experts: int, trust: float) -> None:
        size = experts * ENTROPY_BINS * COUNT_BINS * SPREAD_BINS
        self.weight, self.count = np.full(size, trust), np.full(size, PRIOR_COUNT)

    def bins(self, predictions: ExpertPredictions, entropy: Floats) -> NDArray[np.int64]:
        """Cell of each expert, (n, E); -1 where the expert has no prediction. entropy: (n,), in nats."""
        total, distinct = np.maximum(predictions.total, 1), np.maximum(predictions.distinct, 1)
        count = np.minimum(np.log2(total).astype(np.int64), COUNT_BINS - 1)
        spread = np.where(distinct == 1, 0, 3 - (total >= 2 * distinct) - (total >= 4 * distinct))
        entropy_bin = np.clip((entropy / np.log(2)).astype(np.int64), 0, ENTROPY_BINS - 1)[:, None]
        expert = np.arange(total.shape[1])
        cells = ((expert * ENTROPY_BINS + entropy_bin) * COUNT_BINS + count) * SPREAD_BINS + spread
        return np.where(predictions.total > 0, cells, -1)

    def predict_and_update(
        self, cells: NDArray[np.int64], model_probability: Floats, expert_probability: Floats
    ) -> Floats:
        """Weights (n, E) of the experts at each position, updated only with the tokens before it.

        cells: (n, E). model_probability: (k,), expert_probability: (k, E), of the k <= n tokens that are known.
        """
        out = np.zeros(cells.shape)
        jit_update_weights()(self.weight, self.count, cells, model_probability, expert_probability, out)
        return out


def update_weights(
    weight: Floats, seen: Floats, cells: NDArray[np.int64], chance: Floats, hits: Floats, out: Floats
) -> None:
    """For each position, write its weights to `out`, then update them with its token if that is known.

    weight, seen: (cells,), weights and their counts. chance: (k,), hits: (k, E), probabilities of the known tokens.
    """
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
    """`update_weights`, compiled by numba."""
    from bitgolf.runtime.machine_code import compile_functions

    return compile_functions(update_weights)[0]
