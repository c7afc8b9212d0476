"""Tilt by n-gram counts: the published hints, normalization, order of events, and other methods below."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from bitgolf.config.parse import from_json
from bitgolf.config.spec import Spec, make_node, part
from bitgolf.errors import RecipeError
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.gradient import SGDAdaptation
from bitgolf.score.adapt.ngram_tilt import NO_CONTEXT, ContextCounts, NGramTilt, NGramTiltPlayer, contexts
from bitgolf.score.adapt.phased_lora import PhasedLoRA
from bitgolf.score.adapt.stream_sgd import StreamSGD
from bitgolf.score.cached import CachedScoring
from bitgolf.score.methods import ScoringMethod, SlidingScoring
from bitgolf.score.player import ScoringBatch
from bitgolf.score.referee import score
from bitgolf.score.text import TokenizedText, append_final_bos
from helpers.toy import VOCAB, built, toy_model

LORA = part(DocumentLoRA, window=16, stride=4, rows=2, rank=2, lr=0.05)
BELOW: dict[str, Spec[ScoringMethod]] = {
    "sliding": part(SlidingScoring, window=16, stride=4, isolated=True),
    "lora": LORA,
    "phased": part(PhasedLoRA, lora=LORA, boundaries=(2,), chunk=20, sgd=part(SGDAdaptation, lr=0.05, epochs=1)),
    "sgd": part(StreamSGD, window=16, stride=4, chunk=40),
}
below = pytest.mark.parametrize("method", BELOW.values(), ids=BELOW)


def text_of(lengths: tuple[int, ...] = (50, 40, 30, 20), *, seed: int = 0) -> TokenizedText:
    """Documents that repeat pieces of five tokens."""
    rng = np.random.default_rng(seed)
    pieces = rng.integers(2, VOCAB, (3, 5))
    stream = [
        np.append(1, np.concatenate([pieces[i] for i in rng.integers(0, 3, n // 5 + 1)])[: n - 1]) for n in lengths
    ]
    whole = np.concatenate(stream)
    return TokenizedText(append_final_bos(whole, 1), len(whole))


def charges(method: ScoringMethod, text: TokenizedText, *, rows: int = 4) -> np.ndarray:
    """Bits of each target, with at most so many windows of a method that does not adapt side by side."""
    found = np.zeros(text.num_targets)
    player = method.make_player(built(toy_model()).double(), VOCAB, select_device(), SINGLE_PROCESS)
    try:
        score(player, text, method, charges=found, batch_tokens=16 * rows)
    finally:
        player.close()
    return found


@pytest.mark.parametrize("order", [16, 4, 2])
def test_hints_are_the_published_ones(shared: Path, order: int) -> None:
    """Each target is looked up before it is counted. The original feeds its first target twice: a context of its own."""
    oracle = load_file(shared / "oracles" / "ngram_tilt.safetensors")
    ids, threshold = oracle["tokens"].numpy().astype(np.int32), {16: "0.8", 4: "0.8", 2: "0.5"}[order]
    stream = np.concatenate([ids[1:2], ids[1:]])  # the ring begins with the first target, not with the BOS before it
    counts, none = ContextCounts(), ContextCounts()
    found = []
    for context, token in zip(
        contexts(stream, np.arange(len(stream) - 1), order - 1), stream[1:].tolist(), strict=True
    ):
        found.append(counts.successors(context, none))
        counts.add(context, token)
    prefix = f"order{order}"
    shares = np.array([known.share for known in found], np.float32)
    hinted = np.array([known.token for known in found])
    seen = oracle[f"{prefix}/top_prob"].numpy() > 0
    assert np.allclose(shares, oracle[f"{prefix}/top_prob"].numpy(), atol=1e-6) and seen.any()
    assert np.array_equal(hinted[seen], oracle[f"{prefix}/top_token"].numpy()[seen])
    gate = oracle[f"{prefix}_thr{threshold}/gate"].numpy()
    assert np.array_equal(shares >= float(threshold), gate)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.booleans()), max_size=60))
def test_counts_are_those_of_a_counter(events: list[tuple[int, int, bool]]) -> None:
    """Of two counts together, the most frequent token is found if it has more than half."""
    counts, exact = (ContextCounts(), ContextCounts()), Counter[tuple[int, int]]()
    for context, token, which in events:
        counts[which].add(bytes([context]), token)
        exact[context, token] += 1
    for context in range(3):
        known = counts[0].successors(bytes([context]), counts[1])
        own = {token: exact[context, token] for token in range(4)}
        assert known.total == sum(own.values()) and known.most <= max(own.values())
        if 2 * max(own.values()) > known.total:
            assert (known.most, known.token) == (max(own.values()), max(own, key=own.__getitem__))


def test_a_short_context_is_none() -> None:
    ids = np.arange(5, dtype=np.int32)
    assert contexts(ids, np.arange(5), 3) == [NO_CONTEXT] * 2 + [ids[i - 2 : i + 1].tobytes() for i in (2, 3, 4)]
    counts = ContextCounts()
    counts.add(NO_CONTEXT, 3)
    assert not counts.contexts


@below
def test_it_learns_what_repeats(method: Spec[ScoringMethod]) -> None:
    text = text_of()
    plain, tilted = charges(method(), text), charges(NGramTilt(method=method, length=3), text)
    assert tilted.sum() < 0.95 * plain.sum()


@below
def test_without_boost_it_is_the_method_below(method: Spec[ScoringMethod]) -> None:
    text = text_of()
    tilted = charges(NGramTilt(method=method, length=3, boost=0.0), text)
    assert tilted == pytest.approx(charges(method(), text), rel=1e-9)


@below
def test_a_score_depends_on_nothing_that_comes_later(method: Spec[ScoringMethod]) -> None:
    """With documents one after another. Side by side, rows also see what the others have scored."""
    if "rows" in method.kwargs:
        method = method.replace(rows=1)
    elif "lora" in method.kwargs:
        method = method.set("lora.rows", 1)
    text, tilt = text_of(), NGramTilt(method=method, length=3)
    real = charges(tilt, text, rows=1)
    for cut in (49, 89):
        other = text.tokens.copy()
        other[cut + 2 : -1] = np.random.default_rng(cut).integers(2, VOCAB, len(other) - cut - 3)
        other[[90, 120]] = 1
        replayed = charges(tilt, text._replace(tokens=other), rows=1)
        assert replayed[:cut] == pytest.approx(real[:cut], rel=1e-9)
        assert np.abs(replayed[cut + 1 :] - real[cut + 1 :]).max() > 0.1


def test_probabilities_of_all_texts_sum_to_one() -> None:
    """Over all documents of two tokens of an alphabet of four, scored with counts of what came before in the stream."""
    tiny = built(toy_model(), vocab=4).double()
    tilt = NGramTilt(method=part(SlidingScoring, window=2, stride=1), length=1, boost=2.0)
    total, found_of = 0.0, dict[tuple[int, ...], np.ndarray]()
    for tokens in itertools.product(range(4), repeat=4):
        text = TokenizedText(np.array([1, *tokens]), 4)
        found = np.zeros(4)
        player = tilt.make_player(tiny, 4, select_device(), SINGLE_PROCESS)
        score(player, text, tilt, charges=found, batch_tokens=1)
        total += 2.0 ** -found.sum()
        found_of[tokens] = found
    assert total == pytest.approx(1.0, abs=1e-9)
    same = [found_of[2, 2, 2, last][3] for last in range(4)]
    assert same[2] == min(same), "what has followed twice is the most probable"


def test_the_method_below_adapts_on_its_own_logits() -> None:
    """The tilt changes the score only: adapters are trained on the plain loss, as published."""
    seen = []
    for boost in (0.0, 3.0):
        player = NGramTilt(method=LORA, length=2, boost=boost).make_player(
            built(toy_model()).double(), VOCAB, select_device(), SINGLE_PROCESS
        )
        tilt = NGramTilt(method=LORA, length=2, boost=boost)
        score(player, text_of(), tilt)
        seen.append(player.player.adapters.values.clone())  # type: ignore[attr-defined]
        player.close()
    assert torch.equal(seen[0], seen[1]) and seen[0].any()


def test_a_share_at_the_threshold_is_enough() -> None:
    """After tokens 5 and 6, token 7 has followed four times of five, then four of six; as published, p >= 0.8."""
    tilt = NGramTilt(method=BELOW["sliding"], length=2, threshold=0.8, boost=1.5)
    player = tilt.make_player(built(toy_model()).double(), VOCAB, select_device(), SINGLE_PROCESS)
    assert isinstance(player, NGramTiltPlayer)
    block = ScoringBatch.collate([(torch.tensor([1, 5, 6]), 1)], torch.tensor([True]))
    plain, (context,) = player.player.predict(block), contexts(np.array([1, 5, 6], np.int32), np.array([2]), 2)
    for token in (7, 7, 8, 7, 7):
        player.sections.add(context, token)
    change = player.predict(block) - plain
    assert change[0, 7] == pytest.approx(1.5) and change.count_nonzero() == 1
    player.sections.add(context, 8)
    assert torch.equal(player.predict(block), plain)
    player.close()


def test_its_json_form_and_settings() -> None:
    node = part(NGramTilt, method=LORA, boost=1.5)
    made = node()
    assert from_json(node.to_json()) == node and made.window == 16 and made.cross_document
    assert made.without_adaptation() == LORA().without_adaptation()
    assert NGramTilt().without_adaptation() == part(SlidingScoring)
    with pytest.raises(RecipeError, match="batches of its own"):
        NGramTilt(method=part(CachedScoring))
    for wrong in ({"threshold": 0.5}, {"threshold": 1.1}, {"boost": -1.0}, {"length": 0}):
        with pytest.raises(RecipeError):
            make_node(NGramTilt, wrong, "")
    assert math.isclose(made.threshold, 0.8)
