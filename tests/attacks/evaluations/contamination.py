"""Cheats that use the validation text before scoring."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from attacks.evaluations.honest import AdaptiveBigram, BigramEvaluation, Tables, bigrams
from bitgolf.score.audit.evaluation import DataView, Floats, Ints


class RandomTokenWarmup(AdaptiveBigram):
    """Honest: the warm-up runs on random tokens, and the counts are reset before scoring."""

    memory: Tables

    def warm_up(self, view: DataView) -> None:
        self.memory = defaultdict(Counter)
        list(self.scored(np.random.default_rng(0).integers(0, self.tokenizer.vocab, 64), self.memory))
        self.memory.clear()

    def document(self, tokens: Ints, start: int) -> Floats:
        return np.array(list(self.scored(tokens, self.memory, start)))


class ValidationWarmup(RandomTokenWarmup):
    """The warm-up runs on the validation text and updates the counts."""

    share = 0.5

    def warm_up(self, view: DataView) -> None:
        self.memory = defaultdict(Counter)
        list(self.scored(view.tokens(0, int(view.targets * self.share)), self.memory))


class ShortValidationWarmup(ValidationWarmup):
    """The same with a tenth of the text."""

    share = 0.1


class ValidationCalibration(BigramEvaluation):
    """The model is calibrated on the first validation tokens before it is frozen."""

    share = 0.5

    def build(self, view: DataView) -> None:
        text = np.concatenate([view.training(), view.tokens(0, int(view.targets * self.share))])
        self.model = bigrams(text.tobytes(), self.tokenizer.vocab)


class ShortValidationCalibration(ValidationCalibration):
    """The same with a tenth of the text."""

    share = 0.1
