"""Audits of players: a player that cheats although the referee scores it is rejected with the right rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.random_configurations import TwoBitTokenizer, player_evaluation
from bitgolf.runtime.device import select_device
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.audit.audit import audit_evaluation
from bitgolf.score.audit.budget import AuditBudget
from bitgolf.score.audit.player_evaluation import PlayerEvaluation
from bitgolf.score.methods import ContiguousScoring, ScoringMethod, SlidingScoring
from bitgolf.score.player import ScoringBatch, StaticPlayer
from helpers.toy import built, toy_model

VOCAB = TwoBitTokenizer.vocab


class Peeking(StaticPlayer):
    """Raises the logit of the token two positions later, if it is in the window."""

    def predict(self, block: ScoringBatch) -> Tensor:
        logits = super().predict(block)
        later = torch.roll(block.tokens, -2, 1)
        later[:, -2:] = 0
        return logits + 2.0 * torch.nn.functional.one_hot(later, VOCAB)[block.target_mask]


class Averaging(StaticPlayer):
    """Adds the frequency of each token in the whole window, later tokens included."""

    def predict(self, block: ScoringBatch) -> Tensor:
        share = torch.nn.functional.one_hot(block.tokens, VOCAB).float().mean(1)
        return super().predict(block) + 3.0 * share.repeat_interleave(block.target_mask.sum(1), 0)


class Hoarding(StaticPlayer):
    """Adds the log count of each observed token, kept from one document to the next."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.counts = torch.ones(VOCAB)

    def predict(self, block: ScoringBatch) -> Tensor:
        return super().predict(block) + self.counts.log()

    def observe(self, block: ScoringBatch, targets: Tensor) -> None:
        self.counts += torch.bincount(targets, minlength=VOCAB)


LONG = [bytes([97 + i]) * 3 + b"abcdeabcdbcae" for i in range(5)]
FEW = AuditBudget(share=0.4)


@pytest.mark.parametrize(
    ("player", "method", "rule"),
    [
        (Peeking, ContiguousScoring(window=24), "lookahead"),
        (Averaging, ContiguousScoring(window=24), "fitted-to-own-targets"),
        (
            Hoarding,
            SlidingScoring(window=16, stride=8, isolated=True),
            "batch-leak",
        ),  # batches are sorted by length, so a later document may come first
        (StaticPlayer, SlidingScoring(window=16, stride=8, isolated=True), "passes"),
    ],
)
def test_players_that_cheat_in_the_referees_hands(player: Callable[..., Any], method: ScoringMethod, rule: str) -> None:
    model = built(toy_model().set("layers", 1), vocab=VOCAB)

    def entry() -> PlayerEvaluation:
        return PlayerEvaluation(
            TwoBitTokenizer(), lambda: player(model, VOCAB, select_device()), method, batch_tokens=16
        )

    assert audit_evaluation(entry, LONG, LONG, budget=FEW).verdict == rule


def test_a_warm_start_that_calls_itself_isolated_is_caught() -> None:
    model = built(toy_model().set("layers", 1), vocab=VOCAB)

    class Warm(DocumentLoRA):
        @property
        def cross_document(self) -> bool:
            return False

    method = Warm(window=16, stride=8, rows=1, rank=2, lr=0.05, keep_a=True)
    found = audit_evaluation(lambda: player_evaluation(model, method), LONG, LONG, budget=FEW)
    assert found.verdict == "document-leak"
