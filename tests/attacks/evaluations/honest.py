"""Honest evaluations of small models, the counterparts of the cheats in this folder."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from bitgolf.score.audit.evaluation import ClaimedScore, DataView, Floats, Ints

BETA = 4.0  # weight of the model, in counts, relative to the counts of a context
Tables = defaultdict[int, Counter[int]]  # context → counts of the tokens that followed


@lru_cache(maxsize=8)
def bigrams(training: bytes, vocab: int) -> Floats:
    """P[a, b] = p(b after a), (V, V), from counts of training tokens (int64), smoothed with the unigram distribution."""
    tokens = np.frombuffer(training, np.int64)
    counts = np.bincount(tokens[:-1] * vocab + tokens[1:], minlength=vocab * vocab).reshape(vocab, vocab)
    unigrams = (counts.sum(0) + 0.05) / (counts.sum() + 0.05 * vocab)
    return (counts + BETA * unigrams) / (counts.sum(1, keepdims=True) + BETA)


class BigramEvaluation:
    """A bigram model that does not change. It reports its distributions, as do all that do not say otherwise."""

    isolated = False

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.asked: frozenset[int] = frozenset()
        self.distributions: dict[int, Floats] = {}

    def build(self, view: DataView) -> None:
        self.model = bigrams(view.training().tobytes(), self.tokenizer.vocab)

    def warm_up(self, view: DataView) -> None:
        pass

    def evaluate(self, view: DataView) -> ClaimedScore:
        self.asked, tokens = view.distribution_targets, view.tokens()
        bits = self.charges(tokens)
        return ClaimedScore(np.arange(len(bits)), bits, self.bytes(tokens), distributions=self.distributions)

    def charges(self, tokens: Ints) -> Floats:
        """Bits of each target, (targets,)."""
        for target in self.asked:
            self.distributions[target] = -np.log2(self.model[tokens[target]])
        return -np.log2(self.model[tokens[:-1], tokens[1:]])

    def bytes(self, tokens: Ints) -> int:
        return int(self.tokenizer.byte_lengths[tokens].sum())


class AdaptiveBigram(BigramEvaluation):
    """The bigram model mixed with trigram counts of the text. A target is counted after it is scored."""

    beta = BETA

    def charges(self, tokens: Ints) -> Floats:
        parts = [self.document(tokens[start : stop + 1], start) for start, stop in self.memory_spans(tokens)]
        return np.concatenate(parts)

    def memory_spans(self, tokens: Ints) -> list[tuple[int, int]]:
        """(start, stop) of the targets that share one table of counts: the whole text."""
        return [(0, len(tokens) - 1)]

    def document(self, tokens: Ints, start: int) -> Floats:
        """Bits of targets that share a table. start: the first of them."""
        return np.array(list(self.scored(tokens, defaultdict(Counter), start)))

    def scored(self, tokens: Ints, seen: Tables, start: int = 0) -> Iterator[float]:
        for target, (context, last, token) in enumerate(context_target_pairs(tokens), start):
            if target in self.asked and target not in self.distributions:  # of the first time that it is scored
                row = [self.mixed(seen[context], last, y) for y in range(self.tokenizer.vocab)]
                self.distributions[target] = -np.log2(row)
            yield bits_of(self.mixed(seen[context], last, token))
            seen[context][token] += 1

    def mixed(self, row: Counter[int], last: int, target: int) -> float:
        """Dirichlet posterior probability of a target. It sums to one because the counts are exact."""
        return (row[target] + self.beta * self.model[last, target]) / (row.total() + self.beta)


class IsolatedBigram(AdaptiveBigram):
    """The same with separate counts for each document."""

    isolated = True

    def memory_spans(self, tokens: Ints) -> list[tuple[int, int]]:
        return document_spans(tokens, self.tokenizer.bos)


class SilentBigram(AdaptiveBigram):
    """An adaptive model that reports no distributions, so that every token is tried."""

    def evaluate(self, view: DataView) -> ClaimedScore:
        return super().evaluate(view)._replace(distributions={})


def context_target_pairs(tokens: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """For each target: the last two tokens as one number, the last token, and the target."""
    listed = np.asarray(tokens).tolist()
    for i in range(len(listed) - 1):
        yield (listed[i - 1] if i else 0) * 1000 + listed[i], listed[i], listed[i + 1]


def bits_of(probability: float) -> float:
    return -math.log2(probability)


def document_spans(tokens: Ints, bos: int) -> list[tuple[int, int]]:
    """(start, stop) of each document's targets."""
    starts = [0, *(np.flatnonzero(tokens[1:-1] == bos) + 1).tolist()]
    return list(zip(starts, [*starts[1:], len(tokens) - 1], strict=True))
