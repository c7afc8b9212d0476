"""Cheats that learn what they are scored on before they are."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from attacks.players.honest import Adaptive, Isolated, Static
from bitgolf.score.audit.entry import Floats, Ints, Sight

WINDOW = 32


class TwoPass(Adaptive):
    """Fills its memory in a first pass, and reports the second."""

    def document(self, tokens: Ints) -> Floats:
        seen = defaultdict[int, Counter[int]](Counter)
        list(self.scored(tokens, seen))
        return np.array(list(self.scored(tokens, seen)))


class LastEpoch(Isolated):
    """Adapts to each document for three epochs, and reports the last."""

    def document(self, tokens: Ints) -> Floats:
        seen = defaultdict[int, Counter[int]](Counter)
        epochs = [np.array(list(self.scored(tokens, seen))) for _ in range(3)]
        return epochs[-1]


class Biased(Static):
    """A bias on the logits, fitted to the window that was scored before by a few steps of gradient descent."""

    steps, rate = 8, 60.0

    def charges(self, tokens: Ints) -> Floats:
        bias, found = np.zeros(self.tokenizer.vocab), list[Floats]()
        for start in range(0, len(tokens) - 1, WINDOW):
            logits, targets = np.log(self.model[tokens[:-1][start : start + WINDOW]]), tokens[1:][start : start + WINDOW]
            bias, bits = self.window(logits, targets, bias)
            found.append(bits)
        return np.concatenate(found)

    def window(self, logits: Floats, targets: Ints, bias: Floats) -> tuple[Floats, Floats]:
        """The bias for the next window, and the bits of this one."""
        return self.fitted(logits, targets), charged(logits + bias, targets)

    def fitted(self, logits: Floats, targets: Ints) -> Floats:
        wanted = np.bincount(targets, minlength=logits.shape[1]) / len(targets)
        bias = np.zeros(logits.shape[1])
        for _ in range(self.steps):
            bias += self.rate * 0.05 * (wanted - np.exp(log_softmax(logits + bias)).mean(0))
        return bias


class OwnWindow(Biased):
    """SLOT: the bias is fitted to the very window that is scored with it."""

    def window(self, logits: Floats, targets: Ints, bias: Floats) -> tuple[Floats, Floats]:
        bias = self.fitted(logits, targets)
        return bias, charged(logits + bias, targets)


class Smeared(Static):
    """Mixes in the token before the last one, by a table of what comes two later."""

    shift = 1

    def build(self, sight: Sight) -> None:
        super().build(sight)
        self.skip = self.skipping(sight.training())

    def skipping(self, training: Ints) -> Floats:
        vocab = self.tokenizer.vocab
        pairs = training[:-2] * vocab + training[2:]
        counts = np.bincount(pairs, minlength=vocab * vocab).reshape(vocab, vocab) + 0.02
        return counts / counts.sum(1, keepdims=True)

    def charges(self, tokens: Ints) -> Floats:
        smeared = np.roll(tokens, self.shift)[:-1]
        return charged(np.log(self.model[tokens[:-1]]) + 0.4 * np.log(self.skip[smeared]), tokens[1:])


class FuturePeek(Smeared):
    """The same shift with the other sign: the token after the target is mixed in."""

    shift = -2

    def skipping(self, training: Ints) -> Floats:
        return np.ascontiguousarray(self.model.T) / self.model.T.sum(1, keepdims=True)


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def charged(logits: Floats, targets: Ints) -> Floats:
    return -log_softmax(logits)[np.arange(len(targets)), targets] / np.log(2)
