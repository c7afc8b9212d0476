"""An evaluation that scores a player with the referee, so that players can be audited."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np

from bitgolf.score.audit.evaluation import ClaimedScore, DataView, EvaluationTokenizer
from bitgolf.score.methods import ScoringMethod
from bitgolf.score.player import Player
from bitgolf.score.referee import score
from bitgolf.score.text import TokenizedText


class PlayerEvaluation:
    """The score of a player by `referee.score`.

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
        text = TokenizedText(view.tokens(), view.bytes, self.tokenizer.bos)
        charges = np.zeros(text.num_targets)
        with closing(self._player):
            score(self._player, text, self._method, batch_tokens=self._batch_tokens, charges=charges)
        return ClaimedScore(np.arange(text.num_targets), charges, text.bytes)
