"""Our own players in the audit's hands: those that cheat under the referee are caught, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.random_configurations import Quarters, refereed
from bitgolf.runtime.device import choose
from bitgolf.score.adapt.document_lora import DocumentLora
from bitgolf.score.audit.audit import audit
from bitgolf.score.audit.harness import Depth
from bitgolf.score.audit.player_evaluation import Refereed
from bitgolf.score.methods import Contiguous, Method, Sliding
from bitgolf.score.player import Block, StaticPlayer
from helpers.toy import built, toy_model

VOCAB = Quarters.vocab


class Peeking(StaticPlayer):
    """Raises the logit of the token two later, where the window shows it."""

    def predict(self, block: Block) -> Tensor:
        logits = super().predict(block)
        later = torch.roll(block.tokens, -2, 1)
        later[:, -2:] = 0
        return logits + 2.0 * torch.nn.functional.one_hot(later, VOCAB)[block.asked]


class Averaging(StaticPlayer):
    """Adds how often each token stands in the window: later ones are counted too."""

    def predict(self, block: Block) -> Tensor:
        share = torch.nn.functional.one_hot(block.tokens, VOCAB).float().mean(1)
        return super().predict(block) + 3.0 * share.repeat_interleave(block.asked.sum(1), 0)


class Hoarding(StaticPlayer):
    """Adds how often each token was observed, over the ends of documents."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.counts = torch.ones(VOCAB)

    def predict(self, block: Block) -> Tensor:
        return super().predict(block) + self.counts.log()

    def observe(self, block: Block, targets: Tensor) -> None:
        self.counts += torch.bincount(targets, minlength=VOCAB)


LONG = [bytes([97 + i]) * 3 + b"abcdeabcdbcae" for i in range(5)]
FEW = Depth(cuts=4, documents=2, layouts=1, sums=1)


@pytest.mark.parametrize(
    ("player", "method", "rule"),
    [
        (Peeking, Contiguous(window=24), "lookahead"),
        (Averaging, Contiguous(window=24), "fitted-to-own-targets"),
        (Hoarding, Sliding(window=16, stride=8, isolated=True), "batch-leak"),  # like lengths go together, in any order
        (StaticPlayer, Sliding(window=16, stride=8, isolated=True), "passes"),
    ],
)
def test_players_that_cheat_in_the_referees_hands(player: Callable[..., Any], method: Method, rule: str) -> None:
    model = built(toy_model().set("layers", 1), vocab=VOCAB)

    def entry() -> Refereed:
        return Refereed(Quarters(), lambda: player(model, VOCAB, choose()), method, batch_tokens=16)

    assert audit(entry, LONG, LONG, depth=FEW).verdict == rule


def test_a_warm_start_that_calls_itself_isolated_is_caught() -> None:
    model = built(toy_model().set("layers", 1), vocab=VOCAB)

    class Warm(DocumentLora):
        @property
        def crosses(self) -> bool:
            return False

    method = Warm(window=16, stride=8, rows=1, rank=2, lr=0.05, warm=True)
    found = audit(lambda: refereed(model, method), LONG, LONG, depth=FEW)
    assert found.verdict == "document-leak"
