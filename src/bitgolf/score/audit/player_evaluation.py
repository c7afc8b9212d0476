"""Our own players as entries: the referee scores them, and the audit asks whether they cheat all the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np

from bitgolf.score.audit.evaluation import Alphabet, Claim, Sight
from bitgolf.score.methods import Method
from bitgolf.score.player import Player
from bitgolf.score.referee import score
from bitgolf.score.text import Text


class Refereed:
    """A player, scored by `referee.score`. `player` makes it anew; a method that crosses no documents declares it."""

    def __init__(
        self, tokenizer: Alphabet, player: Callable[[], Player], method: Method, *, batch_tokens: int = 4096
    ) -> None:
        self.tokenizer, self.isolated = tokenizer, not method.crosses
        self._make, self._method, self._batch_tokens = player, method, batch_tokens

    def build(self, sight: Sight) -> None:
        self._player = self._make()

    def warm_up(self, sight: Sight) -> None:
        pass

    def evaluate(self, sight: Sight) -> Claim:
        text = Text(sight.tokens(), sight.bytes, self.tokenizer.bos)
        charges = np.zeros(text.targets)
        with closing(self._player):
            score(self._player, text, self._method, batch_tokens=self._batch_tokens, charges=charges)
        return Claim(np.arange(text.targets), charges, text.bytes)
