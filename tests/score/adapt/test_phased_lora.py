"""Phased LoRA: SGD on the base weights between documents that are scored with LoRA adapters."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.lm import LM
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.gradient import SGDAdaptation, WeightAdapter
from bitgolf.score.adapt.phase_documents import scored_before_phases
from bitgolf.score.adapt.phased_lora import PhasedLoRA, PhasedLoRAPlayer, even_boundaries
from bitgolf.score.document_order import LongestFirstOrder
from bitgolf.score.methods import ScoringMethod
from bitgolf.score.player import AdaptationStep
from bitgolf.score.referee import score
from bitgolf.score.text import TokenizedText, append_final_bos
from helpers.toy import VOCAB, built, toy_model

DOCUMENT, DOCUMENTS = 30, 6
LORA = part(DocumentLoRA, window=16, stride=8, rows=3, rank=2)
LEARN = part(SGDAdaptation, lr=0.05, epochs=1, batch_size=2, sequence_length=16, split_documents=True)


def drifting(documents: int = DOCUMENTS) -> TokenizedText:
    """Documents of equal length with a few distinct tokens."""
    ids = np.random.default_rng(0).choice([5, 9, 17, 33], documents * DOCUMENT, p=[0.4, 0.3, 0.2, 0.1])
    ids[::DOCUMENT] = 1
    return TokenizedText(append_final_bos(ids, 1), 3 * len(ids))


def phased(
    boundaries: tuple[int, ...] = (2, 4),
    *,
    sgd: Spec[SGDAdaptation] = LEARN,
    lora: Spec[DocumentLoRA] = LORA,
    chunk: int = 20,
) -> PhasedLoRA:
    return PhasedLoRA(lora=lora, boundaries=boundaries, chunk=chunk, sgd=sgd)


def charged(
    model: LM, text: TokenizedText, method: ScoringMethod, player: PhasedLoRAPlayer | None = None
) -> np.ndarray:
    """Bits of each target, (targets,)."""
    charges = np.zeros(text.num_targets)
    playing = player or method.make_player(model, VOCAB, select_device(), SINGLE_PROCESS)
    try:
        score(playing, text, method, charges=charges)
    finally:
        playing.close()
    return charges


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=12), st.sets(st.integers(1, 15), min_size=1), st.integers(1, 4)
)
def test_the_plan_has_every_target_once_and_a_section_for_each_phase(
    lengths: list[int], boundaries: set[int], rows: int
) -> None:
    ids = np.concatenate([[1, *[5] * (n - 1)] for n in lengths])
    text, method = (
        TokenizedText(append_final_bos(ids, 1), 9),
        phased(tuple(sorted(boundaries)), lora=LORA.replace(rows=rows)),
    )
    sections, seen = list(method.sections(text, 64)), list[int]()
    for section in sections:
        own = [
            t
            for track in section.batches
            for windows in track.texts
            for w in windows
            for t in range(w.first_target, w.stop)
        ]
        assert sorted(own) == list(range(section.start, section.stop))
        seen += sorted(own)
    assert seen == list(range(text.num_targets))
    ends = [sum(lengths[:b]) for b in sorted(boundaries) if b < len(lengths)]
    assert [section.stop for section in sections] == [*ends, text.num_targets]


def test_boundaries_as_published() -> None:
    assert (
        even_boundaries(2500, 3) == (833, 1666, 2500)
        and even_boundaries(2000, 3) == (666, 1333, 2000)
        and even_boundaries(2000, 1) == (2000,)
    )


@pytest.mark.parametrize("boundaries", [(), (0, 3), (3, 3), (4, 2)])
def test_boundaries_that_do_not_grow_are_errors(boundaries: tuple[int, ...]) -> None:
    with pytest.raises(RecipeError, match="increasing numbers of documents from 1"):
        phased(boundaries)


def test_phases_that_a_text_is_too_short_for_are_said() -> None:
    text = drifting()
    assert phased().warnings(text) == []
    assert phased((2, 6, 9)).warnings(text) == ["the text has 6 documents, so there is no phase after 6, 9 documents"]
    untrained = (
        "the phase after {} documents trains on nothing: its 30 targets are a single chunk, and the last chunk is left"
        " out; set a smaller chunk"
    )
    assert phased((1, 5), chunk=30).warnings(text) == [untrained.format(1)]
    sparse = PhasedLoRA(lora=LORA, boundaries=(2, 3), chunk=30, cumulative=False, sgd=LEARN)
    assert sparse.warnings(text) == [untrained.format(3)]


@pytest.mark.parametrize("sgd", [LEARN.replace(lr=0.0), LEARN.replace(epochs=0)])
def test_without_learning_the_bits_are_those_of_the_adapters_alone(sgd: Spec[SGDAdaptation]) -> None:
    model, text, alone = built(toy_model()), drifting(), LORA.replace(rows=1)
    adapted = charged(model, text, phased(sgd=sgd, lora=alone))
    assert np.array_equal(adapted, charged(model, text, alone())), "with one row, sums are in the same order"
    method = phased(sgd=sgd, lora=LORA.replace(steps=0))
    assert np.allclose(charged(model, text, method), charged(model, text, method.without_adaptation()()), rtol=1e-5)


def test_after_a_phase_adapters_start_anew_also_those_that_documents_hand_on() -> None:
    model, text, warm = built(toy_model()), drifting(), LORA.replace(rows=1, keep_a=True)
    adapted = charged(model, text, phased((2,), sgd=LEARN.replace(lr=0.0), lora=warm))
    rest = text._replace(tokens=text.tokens[2 * DOCUMENT :])
    assert np.array_equal(adapted[2 * DOCUMENT :], charged(model, rest, warm()))
    assert not np.allclose(adapted[2 * DOCUMENT :], charged(model, text, warm())[2 * DOCUMENT :])


@pytest.mark.parametrize("looped", [False, True])
def test_phases_teach_the_base_what_adapters_must_learn_each_time_anew(looped: bool) -> None:
    toy = toy_model()
    if looped:
        toy = toy.replace(
            layer_schedule=part(UNet, order=part(LoopedLayers, first_layer=1, last_layer=1, since=(0.0,)))
        )
    model, text = built(toy), drifting()
    alone, adapted = charged(model, text, LORA()), charged(model, text, phased())
    first = 2 * DOCUMENT
    assert np.allclose(adapted[:first], alone[:first], rtol=1e-4), "no phase has ended before these targets"
    assert adapted[first:].sum() < 0.9 * alone[first:].sum()


class Hasty(PhasedLoRAPlayer):
    """Trains on all documents of the text in the first phase."""

    whole: Tensor

    def adapt(self, revealed: Tensor, step: AdaptationStep) -> None:
        super().adapt(self.whole, step)


@pytest.mark.parametrize("hasty", [False, True])
def test_a_replay_in_which_all_that_is_later_is_random_gives_the_same_scores(hasty: bool) -> None:
    model, text, method = built(toy_model()), drifting(), phased()

    def play(text: TokenizedText) -> np.ndarray:
        player = (Hasty if hasty else PhasedLoRAPlayer)(model, VOCAB, select_device(), SINGLE_PROCESS, method)
        player.__dict__["whole"] = torch.from_numpy(text.tokens)
        return charged(model, text, method, player)

    same, first = list[bool](), play(text)
    for end in (2 * DOCUMENT, 3 * DOCUMENT, 4 * DOCUMENT + 10):
        other = np.random.default_rng(1).integers(2, VOCAB, len(text.tokens))
        other[DOCUMENT * np.arange(DOCUMENTS + 1)] = 1
        other[: end + 1] = text.tokens[: end + 1]
        second = play(text._replace(tokens=other))
        same.append(np.allclose(first[:end], second[:end], rtol=1e-6))
        assert not np.allclose(first[end:], second[end:])
    assert same == ([True, False, False] if hasty else [True] * 3)


@pytest.mark.parametrize("cumulative", [True, False])
def test_a_phase_goes_over_what_is_scored_in_chunks_but_the_last(
    monkeypatch: pytest.MonkeyPatch, cumulative: bool
) -> None:
    learned, begun, learn = list[tuple[list[int], float]](), list[int](), WeightAdapter.train_on

    def note(self: WeightAdapter, tokens: Tensor, rate: float = 1.0) -> None:
        if not any(momentum.any() for momentum in self.state["momentum"]):
            begun.append(len(learned))
        learned.append((tokens.tolist(), rate))
        learn(self, tokens, rate)

    monkeypatch.setattr(WeightAdapter, "train_on", note)
    text, method = drifting(), PhasedLoRA(lora=LORA, boundaries=(2, 4), chunk=20, cumulative=cumulative, sgd=LEARN)
    charged(built(toy_model()), text, method)
    chunks = [0, 20] + ([0, 20, 40, 60, 80] if cumulative else [60, 80])
    assert [tokens for tokens, _ in learned] == [text.tokens[c : c + 21].tolist() for c in chunks]
    rates = [1.0, 0.5] + ([0.5 * (1 + np.cos(np.pi * i / 5)) for i in range(5)] if cumulative else [1.0, 0.5])
    assert [rate for _, rate in learned] == pytest.approx(rates)
    assert begun == [0, 2], "momentum must be zero at the start of each phase"


def five_documents() -> TokenizedText:
    """Documents of 46, 41, 39, 3 and 2 targets, longest first."""
    ids = np.random.default_rng(0).choice([5, 9, 17, 33], 131)
    ids[[0, 46, 85, 126, 129]] = 1
    return LongestFirstOrder().apply(TokenizedText(append_final_bos(ids, 1), 3 * len(ids)))[0]


def test_with_batches_in_flight_a_phase_trains_on_the_shortest_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the reference run of #1855: after documents of 46, 39 and 41 in batches of two, it trains on 39 and 41.

    They come in ascending order, each with BOS before and after it, so BOS stands twice between them.
    """
    learned, learn = list[list[int]](), WeightAdapter.train_on

    def note(self: WeightAdapter, tokens: Tensor, rate: float = 1.0) -> None:
        learned.append(tokens.tolist())
        learn(self, tokens, rate)

    monkeypatch.setattr(WeightAdapter, "train_on", note)
    text, lora = five_documents(), LORA.replace(rows=2)
    method = PhasedLoRA(lora=lora, boundaries=(2,), chunk=20, batches_in_flight=0, sgd=LEARN)
    assert method.warnings(text) == [] and [section.stop for section in method.sections(text, 64)] == [126, 131]
    charged(built(toy_model()), text, method)
    expected = [*text.tokens[87:127].tolist(), *text.tokens[46:88].tolist()]
    assert expected[39:41] == [1, 1]
    assert learned == [expected[i : i + 21] for i in range(0, 80, 20)], "81 targets, without the last chunk"


@settings(deadline=None)
@given(
    st.integers(1, 400),
    st.sets(st.integers(1, 400), min_size=1, max_size=5),
    st.integers(1, 9),
    st.integers(0, 9),
)
def test_phases_begin_after_whole_batches(documents: int, boundaries: set[int], rows: int, in_flight: int) -> None:
    ends = [*scored_before_phases(documents, sorted(boundaries), rows, in_flight)]
    assert all(end % rows == documents % rows and end < documents for end in ends)
    assert all(later - earlier > in_flight * rows for earlier, later in pairwise(ends))
    for boundary, end in zip(sorted(boundaries), ends, strict=False):
        assert end >= boundary


def test_cumulative_and_batches_in_flight_exclude_each_other() -> None:
    with pytest.raises(RecipeError, match="has no effect"):
        PhasedLoRA(cumulative=False, batches_in_flight=0)


def test_closing_gives_the_model_back_as_it_was() -> None:
    model, before, text = built(toy_model()).requires_grad_(False), built(toy_model()), drifting()
    ids = torch.from_numpy(text.tokens[None, :20])
    first = charged(model, text, phased())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True))
    assert torch.equal(model(ids), before(ids)), "adapters must be detached"
    assert np.array_equal(first, charged(model, text, phased()))


def test_a_player_plays_one_text() -> None:
    method, text = phased(), drifting()
    player = method.make_player(built(toy_model()), VOCAB, select_device(), SINGLE_PROCESS)
    score(player, text, method)
    with pytest.raises(BitgolfError, match="has adapted to another text"):
        score(player, text, method)
    player.close()


def test_a_dead_pattern_leaves_no_adapter_behind() -> None:
    model, before = built(toy_model()), built(toy_model())
    with pytest.raises(RecipeError, match="selects no parameter"):
        phased(sgd=LEARN.replace(where=("nothing",))).make_player(model, VOCAB, select_device(), SINGLE_PROCESS)
    ids = torch.from_numpy(drifting().tokens[None, :20])
    assert torch.equal(model(ids), before(ids))
