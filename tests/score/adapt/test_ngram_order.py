"""The order in which n-grams are counted: in that of scoring the tilt is a probability, in corpus order it is none."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.random_configurations import TwoBitTokenizer, player_evaluation
from bitgolf.config.spec import Spec, part
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device, select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.gradient import SGDAdaptation
from bitgolf.score.adapt.ngram_tilt import ContextCounts, NGramTilt, NGramTiltPlayer, contexts
from bitgolf.score.adapt.phased_lora import PhasedLoRA
from bitgolf.score.audit.audit import audit_evaluation
from bitgolf.score.audit.harness import AuditBudget
from bitgolf.score.document_order import LongestFirstOrder
from bitgolf.score.execution.forward import SelectKernels
from bitgolf.score.methods import ScoringMethod, SlidingScoring, TextBatch, TextSection
from bitgolf.score.player import AdaptationStep, Player, ScoringBatch
from bitgolf.score.referee import score
from bitgolf.score.text import TokenizedText, append_final_bos
from helpers.toy import built, toy_model

BOS, ALPHABET, VOCAB = 1, (0, 2), 3


class CountingPlayer:
    """A stand-in for a model that learns while it is scored: each token is as probable as it was frequent so far.

    rate: what an observed token adds to its count, 0 for a model that does not learn. BOS has no probability within a
    document, so that documents of a given length have a total probability of 1.
    """

    vocab, forward = VOCAB, None

    def __init__(self, rate: float) -> None:
        self.rate, self.counts = rate, torch.ones(VOCAB, dtype=torch.float64)

    def predict(self, block: ScoringBatch) -> Tensor:
        logits = self.counts.log().repeat(int(block.target_mask.sum()), 1)
        logits[:, BOS] = -1e4
        return logits

    def observe(self, block: ScoringBatch, targets: Tensor) -> None:
        self.counts += self.rate * torch.bincount(targets, minlength=VOCAB)

    def adapt(self, revealed: Tensor, step: AdaptationStep) -> None:
        pass

    def close(self) -> None:
        pass


class CountingScoring(ScoringMethod):
    """The longest document first, a target at a time."""

    name = "counting"
    adapts = True
    isolated = True
    window, stride, first_stride, order = 16, 1, 1, LongestFirstOrder()

    def __init__(self, *, rate: float = 1.0) -> None:
        self.rate = rate

    def sections(self, text: TokenizedText, batch_tokens: int) -> Iterator[TextSection]:
        windows = [self.windows(stop - start, start) for start, stop in text.documents()]
        yield TextSection(0, text.num_targets, [TextBatch(1, windows)])

    def make_player(
        self,
        model: LM | None,
        vocab: int,
        device: Device,
        distributed: DistributedContext,
        kernels: SelectKernels | None = None,
    ) -> Player:
        return CountingPlayer(self.rate)


class CorpusOrderTilt(NGramTiltPlayer):
    """The tilt as published: the hint of each target is computed in one pass over the text in corpus order."""

    def __init__(self, player: Player, method: NGramTilt, hints: Sequence[int | None]) -> None:
        super().__init__(player, method)
        self.hints = iter(hints)

    def predict(self, block: ScoringBatch) -> Tensor:
        logits = self.player.predict(block).clone()
        for row in logits:
            if (hint := next(self.hints)) is not None:
                row[hint] += self.method.boost
        return logits

    def observe(self, block: ScoringBatch, targets: Tensor) -> None:
        self.player.observe(block, targets)


def corpus_hints(text: TokenizedText, tilt: NGramTilt) -> list[int | None]:
    """The hint of each target of a text in corpus order: it is looked up before the target is counted."""
    ids, counts, none, found = text.tokens.astype(np.int32), ContextCounts(), ContextCounts(), list[int | None]()
    for context, token in zip(contexts(ids, np.arange(len(ids) - 1), tilt.length), ids[1:].tolist(), strict=True):
        known = counts.successors(context, none)
        found.append(known.token if known.share >= tilt.threshold else None)
        counts.add(context, token)
    return found


def joint_sum(rate: float, *, corpus_order: bool) -> float:
    """Total probability of all pairs of documents of 3 and 4 tokens, of which the second, longer one is scored first."""
    tilt, total = NGramTilt(method=part(CountingScoring, rate=rate), length=1, threshold=0.8, boost=2.0), 0.0
    for tokens in itertools.product(ALPHABET, repeat=7):
        text = TokenizedText(append_final_bos(np.array([BOS, *tokens[:3], BOS, *tokens[3:]]), BOS), 9)
        ordered, _ = tilt.order.apply(text)
        player = tilt.make_player(None, VOCAB, select_device(), SINGLE_PROCESS)  # type: ignore[arg-type]
        if corpus_order:
            hints, (first, second) = corpus_hints(text, tilt), text.documents()
            player = CorpusOrderTilt(CountingPlayer(rate), tilt, hints[slice(*second)] + hints[slice(*first)])
        found = np.zeros(9)
        score(player, ordered, tilt, charges=found)
        total += 2.0 ** -found[ordered.tokens[1:] != BOS].sum()
    return total


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_counted_in_the_order_of_scoring_it_is_a_probability(rate: float) -> None:
    assert joint_sum(rate, corpus_order=False) == pytest.approx(1.0, abs=1e-9)


def test_counted_in_corpus_order_it_is_none_if_anything_learns_in_another_order() -> None:
    """Each of the two is a probability by itself, their product is not: no decoder could repeat it."""
    assert joint_sum(0.0, corpus_order=True) == pytest.approx(1.0, abs=1e-9)
    assert abs(joint_sum(1.0, corpus_order=True) - 1.0) > 1e-3


LORA = part(DocumentLoRA, window=16, stride=6, rows=1, rank=2, lr=0.02)
PHASES = part(PhasedLoRA, lora=LORA, boundaries=(1, 2), chunk=40, sgd=part(SGDAdaptation, lr=0.02, epochs=1))
LETTERS = [bytes([97 + i]) * 3 + b"abcdeabcdbcae" for i in range(3)]
FEW = AuditBudget(confidence=0.5, share=0.25)


@pytest.mark.parametrize(
    "method",
    [part(SlidingScoring, window=16, stride=6, isolated=True), LORA, PHASES],
    ids=["sliding", "lora", "phased"],
)
def test_the_audit_passes_it(method: Spec[ScoringMethod]) -> None:
    model = built(toy_model().set("dim", 16).set("layers", 1), vocab=TwoBitTokenizer.vocab)
    tilt = NGramTilt(method=method, length=3)
    found = audit_evaluation(lambda: player_evaluation(model, tilt, batch=16), LETTERS, LETTERS[:2], budget=FEW)
    assert found.verdict == "passes", found


class LookingAhead(NGramTiltPlayer):
    """Also raises the logit of the token two positions later, if it is in the window."""

    def predict(self, block: ScoringBatch) -> Tensor:
        ahead = torch.roll(block.tokens, -2, 1)[block.target_mask]
        return super().predict(block) + 2.0 * torch.nn.functional.one_hot(ahead, self.vocab)


def test_the_audit_rejects_a_tilt_that_looks_ahead() -> None:
    model = built(toy_model().set("dim", 16).set("layers", 1), vocab=TwoBitTokenizer.vocab)

    class Ahead(NGramTilt):
        def make_player(
            self,
            model: LM,
            vocab: int,
            device: Device,
            distributed: DistributedContext,
            kernels: SelectKernels | None = None,
        ) -> Player:
            return LookingAhead(self.method.make_player(model, vocab, device, distributed, kernels), self)

    tilt = Ahead(method=part(SlidingScoring, window=16, stride=6, isolated=True), length=3)
    found = audit_evaluation(lambda: player_evaluation(model, tilt, batch=16), LETTERS, LETTERS[:2], budget=FEW)
    assert found.verdict != "passes"
