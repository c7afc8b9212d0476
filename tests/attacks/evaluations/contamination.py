"""Cheats that met the validation text before they were scored on it."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from attacks.evaluations.honest import Adaptive, Static, Tables, bigrams
from bitgolf.score.audit.evaluation import Floats, Ints, Sight


class Warm(Adaptive):
    """Runs once over random tokens, so that everything is compiled; its memory then starts anew."""

    memory: Tables

    def warm_up(self, sight: Sight) -> None:
        self.memory = defaultdict(Counter)
        list(self.scored(np.random.default_rng(0).integers(0, self.tokenizer.vocab, 64), self.memory))
        self.memory.clear()

    def document(self, tokens: Ints) -> Floats:
        return np.array(list(self.scored(tokens, self.memory)))


class WarmedUp(Warm):
    """Warms up on the text that it scores, updates included."""

    def warm_up(self, sight: Sight) -> None:
        self.memory = defaultdict(Counter)
        list(self.scored(sight.tokens(0, sight.targets // 2), self.memory))


class Calibrated(Static):
    """Calibrates the model on the first validation tokens before it is frozen."""

    def build(self, sight: Sight) -> None:
        text = np.concatenate([sight.training(), sight.tokens(0, sight.targets // 2)])
        self.model = bigrams(text.tobytes(), self.tokenizer.vocab)
