"""The referee: bits from its own softmax, summed once over all targets and divided by the bytes."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from bitgolf.errors import BitgolfError
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score import referee
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.execution.async_copy import DeviceToHostCopy
from bitgolf.score.methods import ContiguousScoring, ScoringMethod, SlidingScoring
from bitgolf.score.player import AdaptationStep, ScoringBatch, StaticPlayer
from bitgolf.score.referee import MAX_IN_FLIGHT, score
from bitgolf.score.text import TokenizedText, append_final_bos
from bitgolf.score.token_bits import token_bits
from helpers.toy import VOCAB, built, toy_model


class Uniform:
    """Predicts equal probabilities, and records the batches and targets that it receives."""

    forward = None

    def __init__(self, vocab: int = VOCAB) -> None:
        self.vocab, self.observed = vocab, list[int]()

    def predict(self, block: ScoringBatch) -> Tensor:
        return torch.full((int(block.target_mask.sum()), self.vocab), 3.0)

    def observe(self, block: ScoringBatch, targets: Tensor) -> None:
        self.observed += targets.tolist()

    def adapt(self, revealed: Tensor, step: AdaptationStep) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def text() -> TokenizedText:
    ids = np.random.default_rng(0).integers(2, VOCAB, 200)
    ids[[0, 77]] = 1
    return TokenizedText(append_final_bos(ids, 1), 500)


def test_uniform_costs_log2_of_the_vocabulary(text: TokenizedText) -> None:
    player = Uniform()
    result = score(player, text, SlidingScoring(window=16, stride=4))
    assert result.targets == 200 and result.bytes == 500
    assert result.bits == pytest.approx(200 * math.log2(VOCAB), rel=1e-12)
    assert result.bpb == result.bits / 500
    assert sorted(player.observed) == sorted(text.tokens[1:].tolist()), "every target must be revealed once"


@pytest.mark.parametrize("method", [ContiguousScoring(window=16), SlidingScoring(window=16, stride=5)])
def test_totals_do_not_depend_on_the_batch(text: TokenizedText, method: ContiguousScoring | SlidingScoring) -> None:
    player = StaticPlayer(built(toy_model()), VOCAB, select_device())
    totals = [score(player, text, method, batch_tokens=n).bits for n in (1, 64, 10_000)]
    assert totals[0] == pytest.approx(totals[1], rel=1e-6) == pytest.approx(totals[2], rel=1e-6)


@torch.no_grad()
def test_a_naive_loop_gives_the_same_bits(text: TokenizedText) -> None:
    model, window, stride = built(toy_model()), 16, 5
    expected, done = 0.0, 0
    for w in SlidingScoring(window=window, stride=stride).windows(text.num_targets):
        logits = model(torch.from_numpy(text.tokens[None, w.start : w.stop])).double()
        for t in range(w.first_target, w.stop):
            expected -= float(torch.log_softmax(logits[0, t - w.start], -1)[text.tokens[t + 1]]) / math.log(2)
            done += 1
    result = score(StaticPlayer(model, VOCAB, select_device()), text, SlidingScoring(window=window, stride=stride))
    assert done == result.targets and result.bits == pytest.approx(expected, rel=1e-6)


def test_token_bits_normalise_whatever_a_player_says() -> None:
    logits = torch.tensor([[1000.0, 999.0, -50.0]])
    bits = sum(2.0 ** -token_bits(logits, torch.tensor([y])).item() for y in range(3))
    assert bits == pytest.approx(1.0, abs=1e-12)


class Bad(Uniform):
    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def predict(self, block: ScoringBatch) -> Tensor:
        return self.logits.expand(int(block.target_mask.sum()), -1)


def test_logits_that_are_no_distribution_are_refused(text: TokenizedText) -> None:
    with pytest.raises(BitgolfError, match="not finite"):
        score(Bad(torch.full((VOCAB,), math.nan)), text, ContiguousScoring(window=16))
    with pytest.raises(BitgolfError, match="shape"):
        score(Bad(torch.zeros(VOCAB - 1)), text, ContiguousScoring(window=16))


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(BitgolfError, match="nothing to score"):
        score(Uniform(), TokenizedText(np.array([1]), 0), ContiguousScoring(window=16))


def test_a_foreign_token_is_an_error(text: TokenizedText) -> None:
    with pytest.raises(BitgolfError, match="token"):
        score(Uniform(vocab=10), text, ContiguousScoring(window=16))


# ---- pending copies ------------------------------------------------------------------------------------------------


class Late(DeviceToHostCopy):
    """A copy that is pending until `wait`, as from CUDA."""

    waiting: ClassVar[list[Late]] = []

    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        self.waiting.append(self)
        self.most = len(self.waiting)

    @property
    def is_pending(self) -> bool:
        return True

    def wait(self) -> Tensor:
        assert self.waiting.pop(0) is self, "copies must be awaited in the order of the batches"
        assert self.most <= MAX_IN_FLIGHT + 1
        return super().wait()


@pytest.mark.parametrize("method", [ContiguousScoring(window=16), DocumentLoRA(window=16, stride=5, rows=2, rank=2)])
def test_bits_that_arrive_late_are_the_same_bits(
    text: TokenizedText, method: ScoringMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    def played() -> tuple[float, np.ndarray, list[tuple[int, int, float]]]:
        told, charges = list[tuple[int, int, float]](), np.zeros(text.num_targets)
        player = method.make_player(built(toy_model()), VOCAB, select_device(), SINGLE_PROCESS)
        tell = lambda *now: told.append(now)  # noqa: E731
        found = score(player, text, method, batch_tokens=32, progress=tell, charges=charges)
        return found.bits, charges, told

    early = played()
    monkeypatch.setattr(referee, "DeviceToHostCopy", Late)
    late = played()
    assert late[0] == early[0] and np.array_equal(late[1], early[1]) and late[2] == early[2]
    assert not Late.waiting and len(early[2]) > 2 * MAX_IN_FLIGHT


def test_what_is_not_finite_is_refused_at_its_place_however_late(
    text: TokenizedText, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(Uniform):
        def predict(self, block: ScoringBatch) -> Tensor:
            logits = super().predict(block)
            return logits + math.nan if len(self.observed) == 64 else logits

    places = list[str]()
    for download in (DeviceToHostCopy, Late):
        monkeypatch.setattr(referee, "DeviceToHostCopy", download)
        with pytest.raises(BitgolfError, match="not finite") as error:
            score(Fails(), text, ContiguousScoring(window=16), batch_tokens=16)
        places.append(error.value.where)
        Late.waiting.clear()
    assert places == ["targets from 64"] * 2
