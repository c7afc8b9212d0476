"""Cheats that train on targets before these targets are scored."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import lru_cache

import numpy as np

from attacks.evaluations.honest import AdaptiveBigram, BigramEvaluation, IsolatedBigram, bigrams
from bitgolf.score.audit.evaluation import DataView, Floats, Ints

WINDOW = 32


class TwoPass(AdaptiveBigram):
    """Counts in a first pass over the text, and reports the bits of a second pass."""

    def document(self, tokens: Ints) -> Floats:
        seen = defaultdict[int, Counter[int]](Counter)
        list(self.scored(tokens, seen))
        return np.array(list(self.scored(tokens, seen)))


class LastEpoch(IsolatedBigram):
    """Adapts to each document for three epochs, and reports the bits of the last epoch."""

    def document(self, tokens: Ints) -> Floats:
        seen = defaultdict[int, Counter[int]](Counter)
        epochs = [np.array(list(self.scored(tokens, seen))) for _ in range(3)]
        return epochs[-1]


class PreviousWindowBias(BigramEvaluation):
    """Honest: a bias on the logits, fitted by gradient descent to the previous window after it was scored."""

    steps, rate = 2, 4.0

    def build(self, view: DataView) -> None:
        super().build(view)
        self.logits = np.log(self.model)

    def charges(self, tokens: Ints) -> Floats:
        bias, found = np.zeros(self.tokenizer.vocab), list[Floats]()
        for start in range(0, len(tokens) - 1, WINDOW):
            logits, targets = self.logits[tokens[:-1][start : start + WINDOW]], tokens[1:][start : start + WINDOW]
            bias, bits = self.window(logits, targets, bias)
            found.append(bits)
        return np.concatenate(found)

    def window(self, logits: Floats, targets: Ints, bias: Floats) -> tuple[Floats, Floats]:
        """The bias for the next window, and the bits of this window."""
        return self.fitted(logits, targets), charged(logits + bias, targets)

    def fitted(self, logits: Floats, targets: Ints) -> Floats:
        wanted = np.bincount(targets, minlength=logits.shape[1]) / len(targets)
        bias = np.zeros(logits.shape[1])
        for _ in range(self.steps):
            bias += self.rate * (wanted - softmax(logits + bias).mean(0))
        return bias


class OwnWindowBias(PreviousWindowBias):
    """SLOT: the bias is fitted to the window that is then scored with it."""

    def window(self, logits: Floats, targets: Ints, bias: Floats) -> tuple[Floats, Floats]:
        bias = self.fitted(logits, targets)
        return bias, charged(logits + bias, targets)


@lru_cache(maxsize=4)
def skip_bigrams(training: bytes, vocab: int) -> tuple[Floats, Floats]:
    """p(token | token two before) and p(token | token after), both to the power 0.4, (V, V) each."""
    tokens = np.frombuffer(training, np.int64)
    skipped = np.bincount(tokens[:-2] * vocab + tokens[2:], minlength=vocab * vocab).reshape(vocab, vocab) + 0.02
    model = bigrams(training, vocab).T
    return (skipped / skipped.sum(1, keepdims=True)) ** 0.4, (model / model.sum(1, keepdims=True)) ** 0.4


class PreviousTokenMixing(BigramEvaluation):
    """Honest: mixes in the distribution given the token before the last one."""

    shift, table = 1, 0

    def build(self, view: DataView) -> None:
        super().build(view)
        self.smear = skip_bigrams(view.training().tobytes(), self.tokenizer.vocab)[self.table]
        self.norms = self.smear @ self.model.T

    def charges(self, tokens: Ints) -> Floats:
        smeared, inputs, targets = np.roll(tokens, self.shift)[:-1], tokens[:-1], tokens[1:]
        return -np.log2(self.model[inputs, targets] * self.smear[smeared, targets] / self.norms[smeared, inputs])


class NextTokenMixing(PreviousTokenMixing):
    """The same with the wrong sign of the shift: mixes in the distribution given the token after the target."""

    shift, table = -2, 1


def softmax(logits: Floats) -> Floats:
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def charged(logits: Floats, targets: Ints) -> Floats:
    return -log_softmax(logits)[np.arange(len(targets)), targets] / np.log(2)
