"""Cheats that train on targets before these targets are scored."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import lru_cache

import numpy as np

from attacks.evaluations.honest import AdaptiveBigram, BigramEvaluation, IsolatedBigram, bigrams
from bitgolf.score.audit.evaluation import DataView, Floats, Ints


class TwoPass(AdaptiveBigram):
    """Counts in a first pass over the text, and reports the bits of a second pass."""

    def document(self, tokens: Ints, start: int) -> Floats:
        seen = defaultdict[int, Counter[int]](Counter)
        list(self.scored(tokens, seen))
        return np.array(list(self.scored(tokens, seen, start)))


class LastEpoch(IsolatedBigram):
    """Adapts to each document for three epochs, and reports the bits of the last epoch."""

    def document(self, tokens: Ints, start: int) -> Floats:
        seen = defaultdict[int, Counter[int]](Counter)
        epochs = [np.array(list(self.scored(tokens, seen, start))) for _ in range(3)]
        return epochs[-1]


class PreviousWindowBias(BigramEvaluation):
    """Honest: a bias on the logits, fitted by gradient descent to the previous window after it was scored."""

    steps, rate, size = 2, 4.0, 32

    def build(self, view: DataView) -> None:
        super().build(view)
        self.logits = np.log(self.model)

    def charges(self, tokens: Ints) -> Floats:
        bias, found = np.zeros(self.tokenizer.vocab), list[Floats]()
        for start in range(0, len(tokens) - 1, self.size):
            logits, targets = self.logits[tokens[:-1][start : start + self.size]], tokens[1:][start : start + self.size]
            used, bias = self.biases(logits, targets, bias)
            for target in self.asked & set(range(start, start + len(targets))):
                self.distributions[target] = -log_softmax(logits + used)[target - start] / np.log(2)
            found.append(charged(logits + used, targets))
        return np.concatenate(found)

    def biases(self, logits: Floats, targets: Ints, bias: Floats) -> tuple[Floats, Floats]:
        """The bias for this window, and for the next one."""
        return bias, self.fitted(logits, targets)

    def fitted(self, logits: Floats, targets: Ints) -> Floats:
        wanted = np.bincount(targets, minlength=logits.shape[1]) / len(targets)
        bias = np.zeros(logits.shape[1])
        for _ in range(self.steps):
            bias += self.rate * (wanted - softmax(logits + bias).mean(0))
        return bias


class OwnWindowBias(PreviousWindowBias):
    """SLOT: the bias is fitted to the window that is then scored with it."""

    def biases(self, logits: Floats, targets: Ints, bias: Floats) -> tuple[Floats, Floats]:
        return self.fitted(logits, targets), bias


class ShortOwnWindowBias(OwnWindowBias):
    """The same with windows of 16 targets."""

    size = 16


class ShortestOwnWindowBias(OwnWindowBias):
    """The same with windows of 8 targets, so that it reaches no further than a mask that is off by one."""

    size = 8


class ShortestPreviousWindowBias(PreviousWindowBias):
    """Honest: windows of 8 targets."""

    size = 8


class ShortPreviousWindowBias(PreviousWindowBias):
    """Honest: windows of 16 targets."""

    size = 16


@lru_cache(maxsize=4)
def skip_bigrams(training: bytes, vocab: int) -> tuple[Floats, Floats, Floats]:
    """p(token | token two before), p(token | token after) and p(token | token two after), (V, V) each, to a power.

    The powers leave most of the weight to the model that they are mixed with.
    """
    tokens = np.frombuffer(training, np.int64)
    skipped = np.bincount(tokens[:-2] * vocab + tokens[2:], minlength=vocab * vocab).reshape(vocab, vocab) + 0.02
    rows = (skipped, 0.4), (bigrams(training, vocab).T, 0.4), (skipped.T, 0.4)
    return tuple((table / table.sum(1, keepdims=True)) ** power for table, power in rows)  # pyright: ignore


class PreviousTokenMixing(BigramEvaluation):
    """Honest: mixes in the distribution given the token before the last one."""

    shift, table = 1, 0

    def build(self, view: DataView) -> None:
        super().build(view)
        self.smear = skip_bigrams(view.training().tobytes(), self.tokenizer.vocab)[self.table]
        self.norms = self.smear @ self.model.T

    def charges(self, tokens: Ints) -> Floats:
        smeared, inputs, targets = np.roll(tokens, self.shift)[:-1], tokens[:-1], tokens[1:]
        for target in self.asked:
            row = self.model[inputs[target]] * self.smear[smeared[target]] / self.norms[smeared[target], inputs[target]]
            self.distributions[target] = -np.log2(row)
        return -np.log2(self.model[inputs, targets] * self.smear[smeared, targets] / self.norms[smeared, inputs])


class NextTokenMixing(PreviousTokenMixing):
    """The same with the wrong sign of the shift: mixes in the distribution given the token after the target."""

    shift, table = -2, 1


class OffByTwo(PreviousTokenMixing):
    """Mixes in the distribution given the second token after the target."""

    shift, table = -3, 2


def softmax(logits: Floats) -> Floats:
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def charged(logits: Floats, targets: Ints) -> Floats:
    return -log_softmax(logits)[np.arange(len(targets)), targets] / np.log(2)
