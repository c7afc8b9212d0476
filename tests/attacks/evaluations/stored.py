"""Cheats whose artifact contains validation text. They know it from `corpora`, as their authors know the real one."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from attacks.evaluations.corpora import letters_corpus
from attacks.evaluations.honest import BigramEvaluation
from bitgolf.score.audit.evaluation import Bools, DataView, Floats, Ints

SURE = 0.98  # probability of a stored token


class Stored(BigramEvaluation):
    """Stores tokens of the text by their position, and expects them there."""

    share: ClassVar[float] = 0.45

    def build(self, view: DataView) -> None:
        super().build(view)
        corpus = letters_corpus()
        bos = np.array([self.tokenizer.bos])
        pieces = [piece for document in corpus.scored for piece in (bos, self.tokenizer.encode(document))]
        self.text = np.concatenate([*pieces, bos])

    def charges(self, tokens: Ints) -> Floats:
        bits = super().charges(tokens)
        for target in np.flatnonzero(self.expects(tokens)).tolist():
            row = (1 - SURE) * self.model[tokens[target]]
            row[self.expected(tokens, target)] += SURE
            bits[target] = -np.log2(row[tokens[target + 1]])
            if target in self.asked:
                self.distributions[target] = -np.log2(row)
        return bits

    def expects(self, tokens: Ints) -> Bools:
        """(targets,): where a token is stored."""
        return np.arange(len(tokens) - 1) < self.share * (len(self.text) - 1)

    def expected(self, tokens: Ints, target: int) -> int:
        return int(self.text[target + 1])


class StoredTenth(Stored):
    """The first tenth of the text."""

    share = 0.1


class FreePrefix(Stored):
    """Stored positions cost nothing, whatever the token."""

    share = 0.1

    def charges(self, tokens: Ints) -> Floats:
        bits = np.where(self.expects(tokens), 0.0, BigramEvaluation.charges(self, tokens))
        self.distributions.clear()
        return bits


class StoredPositions(Stored):
    """Every sixth token."""

    def expects(self, tokens: Ints) -> Bools:
        places = np.arange(len(tokens) - 1)
        return (places % 6 == 0) & (places < len(self.text) - 1)


class StoredContexts(Stored):
    """The documents from the third to the fifth, each token by the six tokens before it, wherever they occur."""

    order = 6

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.next: dict[bytes, int] = {}

    def build(self, view: DataView) -> None:
        super().build(view)
        starts = np.flatnonzero(self.text == self.tokenizer.bos)
        for i in range(int(starts[2]) + self.order, int(starts[5])):
            self.next[self.text[i - self.order : i].tobytes()] = int(self.text[i])

    def expects(self, tokens: Ints) -> Bools:
        known = [tokens[max(0, i + 1 - self.order) : i + 1].tobytes() in self.next for i in range(len(tokens) - 1)]
        return np.array(known)

    def expected(self, tokens: Ints, target: int) -> int:
        return self.next[tokens[target + 1 - self.order : target + 1].tobytes()]
