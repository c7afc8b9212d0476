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

    def document(self, tokens: Ints) -> Floats:
        return np.array(list(self.scored(tokens, self.memory)))


class ValidationWarmup(RandomTokenWarmup):
    """The warm-up runs on the validation text and updates the counts."""

    def warm_up(self, view: DataView) -> None:
        self.memory = defaultdict(Counter)
        list(self.scored(view.tokens(0, view.targets // 2), self.memory))


class ValidationCalibration(BigramEvaluation):
    """The model is calibrated on the first validation tokens before it is frozen."""

    def build(self, view: DataView) -> None:
        text = np.concatenate([view.training(), view.tokens(0, view.targets // 2)])
        self.model = bigrams(text.tobytes(), self.tokenizer.vocab)
