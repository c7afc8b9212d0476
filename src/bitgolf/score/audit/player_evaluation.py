"""An evaluation that scores a player with the referee, so that players can be audited."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from bitgolf.score.audit.evaluation import ClaimedScore, DataView, EvaluationTokenizer, Floats, Ints
from bitgolf.score.document_order import DocumentOrder
from bitgolf.score.methods import ScoringMethod
from bitgolf.score.player import Player
from bitgolf.score.referee import score
from bitgolf.score.text import TokenizedText


class PlayerEvaluation:
    """The score of a player by `referee.score`, with the distributions that an audit asks for.

    player: creates the player anew for each run. `isolated` is declared if the method does not cross documents.
    """

    def __init__(
        self,
        tokenizer: EvaluationTokenizer,
        player: Callable[[], Player],
        method: ScoringMethod,
        *,
        batch_tokens: int = 4096,
    ) -> None:
        self.tokenizer, self.isolated = tokenizer, not method.cross_document
        self._make, self._method, self._batch_tokens = player, method, batch_tokens

    def build(self, view: DataView) -> None:
        self._player = self._make()

    def warm_up(self, view: DataView) -> None:
        pass

    def evaluate(self, view: DataView) -> ClaimedScore:
        corpus = TokenizedText(view.tokens(), view.bytes, self.tokenizer.bos)
        positions = _positions(corpus, self._method.order)
        text, side_bits = self._method.order.apply(corpus)
        charges, found = np.zeros(text.num_targets), dict[int, Floats]()

        def keep(targets: Tensor, logits: Tensor) -> None:
            for row, position in enumerate(positions[targets.numpy()].tolist()):
                if position in view.distribution_targets:
                    bits = torch.log_softmax(logits[row].cpu().double(), -1) / -math.log(2)
                    found[position] = bits.numpy()

        asked = keep if view.distribution_targets else None
        with closing(self._player):
            score(self._player, text, self._method, batch_tokens=self._batch_tokens, charges=charges, on_logits=asked)
        return ClaimedScore(positions, charges, text.bytes, side_bits, found)


def _positions(text: TokenizedText, order: DocumentOrder) -> Ints:
    """The targets of a text in the order in which its documents are scored."""
    spans = text.documents()
    lengths = np.array([stop - start for start, stop in spans], np.int64)
    return np.concatenate([np.arange(*spans[i]) for i in order.permutation(lengths)])
