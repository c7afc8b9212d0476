"""N-gram mixing: a distribution over the whole vocabulary that depends on the past only, with adaptive weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.model.lm import LM
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.adapt.mixing_weights import (
    MAX_COUNT,
    PRIOR_COUNT,
    MixingWeights,
    jit_update_weights,
    update_weights,
)
from bitgolf.score.adapt.ngram_mixing import NGramMixing, mix_logits
from bitgolf.score.adapt.ngram_model import NGramModel
from bitgolf.score.methods import ScoringMethod
from bitgolf.score.player import ScoringBatch
from bitgolf.score.referee import score
from bitgolf.score.text import TokenizedText, append_final_bos
from helpers.examples import examples
from helpers.toy import VOCAB, built, toy_model

READING: dict[str, Any] = {
    "window": 16,
    "stride": 4,
    "document_orders": (1, 3),
    "stream_orders": (1, 2),
    "initial_weight": 0.3,
}
SMALL = NGramMixing(**READING)


@pytest.fixture(scope="module")
def model() -> LM:
    return built(toy_model()).double()


def text_of(*documents: list[int]) -> TokenizedText:
    ids = np.array([i for document in documents for i in (1, *document)])
    return TokenizedText(append_final_bos(ids, 1), len(ids))


def words(n: int, seed: int = 0) -> list[int]:
    """Repetitive tokens: a sequence of words of three tokens, drawn from a dozen words."""
    random = np.random.default_rng(seed)
    return random.integers(2, VOCAB, (12, 3))[random.integers(0, 12, n // 3 + 1)].reshape(-1)[:n].tolist()


def charges(model: LM, text: TokenizedText, method: ScoringMethod = SMALL, batch_tokens: int = 96) -> np.ndarray:
    player, out = method.make_player(model, VOCAB, select_device(), SINGLE_PROCESS), np.zeros(text.num_targets)
    result = score(player, text, method, batch_tokens=batch_tokens, charges=out)
    assert result.bits == pytest.approx(math.fsum(out), rel=1e-12)
    return out


def without_mixing() -> ScoringMethod:
    method = SMALL.without_adaptation()
    assert method
    return method()


@pytest.fixture(scope="module")
def text() -> TokenizedText:
    return text_of(words(80), words(50, 1)[:25] + words(80)[:25])


@pytest.mark.parametrize("t", [40, 117])
def test_all_candidates_sum_to_one_and_a_target_changes_nothing_before_it(
    model: LM, text: TokenizedText, t: int
) -> None:
    """Score every token of the vocabulary in place of target t."""
    changed, found = text.tokens.copy(), list[np.ndarray]()
    for token in range(VOCAB):
        changed[t + 1] = token
        found.append(charges(model, TokenizedText(changed, text.bytes), batch_tokens=10_000))
    assert sum(2.0 ** -bits[t] for bits in found) == pytest.approx(1, abs=1e-9)
    assert all((bits[:t] == found[0][:t]).all() for bits in found)


@pytest.mark.parametrize("batch_tokens", [16, 96, 10_000])
@pytest.mark.parametrize("isolated", [False, True])
def test_what_comes_later_changes_nothing(model: LM, text: TokenizedText, batch_tokens: int, isolated: bool) -> None:
    """This includes tokens in a later row of the same batch."""
    method = NGramMixing(**READING, isolated=isolated)
    honest = charges(model, text, method, batch_tokens)
    for cut in range(2, text.num_targets, 29):
        changed = text.tokens.copy()
        drawn = np.random.default_rng(cut).integers(2, VOCAB, len(changed) - cut)
        changed[cut:] = np.where(changed[cut:] == 1, 1, drawn)
        again = charges(model, TokenizedText(changed, text.bytes), method, batch_tokens)
        assert again[: cut - 1] == pytest.approx(honest[: cut - 1], rel=1e-9)
        assert abs(again[cut - 1 :] - honest[cut - 1 :]).max() > 0.1


def test_totals_do_not_depend_on_the_batch(model: LM, text: TokenizedText) -> None:
    found = [charges(model, text, batch_tokens=n) for n in (1, 64, 10_000)]
    assert found[0] == pytest.approx(found[1], rel=1e-9) and found[0] == pytest.approx(found[2], rel=1e-9)
    assert abs(found[0] - charges(model, text, without_mixing())).max() > 0.5


def test_gates_that_are_shut_leave_the_model_alone(model: LM, text: TokenizedText) -> None:
    """With all weights zero, the bits are exactly those of the model with the same windows."""
    shut = SMALL.make_player(model, VOCAB, select_device(), SINGLE_PROCESS)
    shut.gates.weight[:] = 0
    alone = without_mixing().make_player(model, VOCAB, select_device(), SINGLE_PROCESS)
    found = np.zeros((2, text.num_targets))
    for player, out in zip((shut, alone), found, strict=True):
        score(player, text, SMALL, charges=out)
    assert (found[0] == found[1]).all() and found.any()


def test_a_text_that_comes_again_is_nearly_free(model: LM) -> None:
    once = np.random.default_rng(5).integers(2, VOCAB, 900).tolist()  # longer than any window, and random
    again = charges(model, text_of(once, once), NGramMixing(window=16, stride=16))
    first, second = again[:901].mean(), again[-800:].mean()
    assert first > math.log2(VOCAB) - 0.5 and second < 0.1
    assert np.median(again[-400:]) < 0.02, "the model's remaining share of the mixture must be small"


def test_isolated_documents_know_nothing_of_earlier_ones(model: LM) -> None:
    method = NGramMixing(**READING, isolated=True)
    own, other = words(70), words(70, 1)
    assert not method.cross_document and SMALL.cross_document
    found = [charges(model, text_of(before, own), method)[71:] for before in (own, other)]
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    crossing = [charges(model, text_of(before, own))[71:] for before in (own, other)]
    assert crossing[0].sum() < crossing[1].sum() - 20


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_the_plan_is_the_stream_in_order_on_one_track(text: TokenizedText, batch_tokens: int) -> None:
    for isolated in (False, True):
        method = NGramMixing(window=16, stride=4, isolated=isolated)
        (section,) = method.sections(text, batch_tokens)
        (track,) = section.batches
        targets = [t for windows in track.texts for w in windows for t in range(w.first_target, w.stop)]
        assert targets == list(range(text.num_targets)) and track.rows * 16 <= max(batch_tokens, 16)


def test_a_block_is_observed_before_the_next_is_predicted(model: LM) -> None:
    player = SMALL.make_player(model, VOCAB, select_device(), SINGLE_PROCESS)
    block = ScoringBatch(torch.ones(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool), torch.ones(1).bool())
    player.predict(block)
    before = player.gates.weight.copy()
    with pytest.raises(BitgolfError, match="before observe of the previous batch"):
        player.predict(block)
    player.observe(block, torch.ones(3, dtype=torch.int64))
    assert (player.gates.weight != before).any(), "observe must update the weights with the last target"
    player.predict(block)


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=40), st.integers(0, 1 << 30), st.floats(0, 1))
def test_a_mixture_is_a_distribution(stream: list[int], seed: int, least: float) -> None:
    """And it equals the sequential mixture p <- (1 - w) p + w p_expert, for any weights."""
    said = NGramModel(8, (1, 3), 100).read(np.array(stream))
    random = np.random.default_rng(seed)
    weights = np.where(said.total > 0, np.maximum(random.random(said.total.shape), least * (1 - 1 / MAX_COUNT)), 0.0)
    logits = torch.from_numpy(random.normal(size=(len(stream), 8)) * 5)
    found = mix_logits(logits, logits.logsumexp(-1), said, weights)
    p = logits.softmax(-1).numpy()
    for e in range(weights.shape[1]):
        own = np.stack([said.probability(np.full(len(stream), y))[:, e] for y in range(8)], 1)
        p = (1 - weights[:, e : e + 1]) * p + weights[:, e : e + 1] * own
    assert p.sum(1) == pytest.approx(1, abs=1e-12)
    assert found.softmax(-1).numpy() == pytest.approx(p, rel=1e-9)
    assert found.logsumexp(-1).numpy() == pytest.approx(logits.logsumexp(-1).numpy(), abs=1e-9)


@pytest.mark.parametrize("alone", ["document_orders", "stream_orders"])
def test_either_counts_alone_and_the_documents_end_with_it(model: LM, alone: str) -> None:
    """A repetition of the first document costs fewer bits with stream orders, and not with document orders only."""
    method = NGramMixing(**{**READING, "document_orders": (), "stream_orders": (), alone: (1, 3)})
    text = text_of(words(70), words(70))
    found, still = charges(model, text, method), charges(model, text, without_mixing())
    assert found[:71].sum() < still[:71].sum() - 20
    gained = (still - found)[71:].sum() - (still - found)[:71].sum()
    assert (gained > 60) == (alone == "stream_orders")


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(0, 1 << 30), st.integers(1, 30), st.integers(0, 30))
def test_gates_learn_alike_plainly_and_compiled(seed: int, n: int, known: int) -> None:
    random, known = np.random.default_rng(seed), min(n, known)
    cells, chance, hits = random.integers(-1, 6, (n, 3)), random.random(known), random.random((known, 3)).round()
    found = []
    for run in (update_weights, jit_update_weights()):
        weight, seen, out = np.full(6, 0.2), np.full(6, PRIOR_COUNT), np.zeros((n, 3))
        run(weight, seen, cells, chance, hits, out)
        found.append((weight, seen, out))
    for a, b in zip(*found, strict=True):
        assert a == pytest.approx(b, rel=1e-12)


def test_a_weight_is_the_mean_of_shares() -> None:
    """One expert, one cell: a share is the expert's posterior, the weight is the mean of shares and two priors."""
    chance, hits, shares = [0.1, 0.5, 0.2], [1.0, 0.0, 0.25], [0.3, 0.3]
    out, weight = np.zeros((4, 1)), np.array([0.3])
    update_weights(
        weight, np.array([PRIOR_COUNT]), np.zeros((4, 1), np.int64), np.array(chance), np.array(hits)[:, None], out
    )
    for t in range(4):
        assert out[t, 0] == pytest.approx(np.mean(shares), rel=1e-12)
        if t < 3:
            w = out[t, 0]
            shares.append(w * hits[t] / (w * hits[t] + (1 - w) * chance[t]))
    assert weight[0] == pytest.approx(np.mean(shares), rel=1e-12)


def test_an_expert_that_is_always_right_is_never_all() -> None:
    weight, n = np.array([0.5]), 5000
    update_weights(
        weight, np.array([PRIOR_COUNT]), np.zeros((n, 1), np.int64), np.zeros(n), np.ones((n, 1)), np.zeros((n, 1))
    )
    assert weight[0] == 1 - 1 / MAX_COUNT


def test_cells_are_told_apart_by_what_is_known() -> None:
    said = NGramModel(8, (1,), 100).read(np.array([1, 2] * 20))
    gates = MixingWeights(2, 0.05)
    cells = gates.bins(said, np.full(40, 2.0))
    assert (cells[:2] == -1).all() and (cells[2:, 0] != cells[2:, 1]).all() and len(np.unique(cells[2:, 0])) == 5
    assert (gates.bins(said, np.full(40, 2.8))[2:] != cells[2:]).all()
    assert gates.bins(said, np.full(40, 50.0)).max() < len(gates.weight)


@pytest.mark.parametrize(
    "wrong",
    [
        {"document_orders": (), "stream_orders": ()},
        {"document_orders": (), "isolated": True},
        {"stream_orders": (0, 1)},
        {"document_orders": (3, 2)},
        {"history": 1},
        {"initial_weight": 0.0},
        {"initial_weight": 1.0},
        {"stride": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        NGramMixing(**wrong)
