"""Scoring with a KV cache: each token is computed once, with the keys of a sliding window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bitgolf.config.edits import append
from bitgolf.config.spec import part
from bitgolf.errors import RecipeError
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.cores.sdpa import DocumentMask, SDPACore, SlidingWindowMask
from bitgolf.model.attention.key_offset import KeyOffset
from bitgolf.model.attention.scalable_softmax import ScalableSoftmax
from bitgolf.model.block import Block
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.lm import LM
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.model.smear import RunningMeanSmear
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.cached import CachedScoring, KVCachePlayer
from bitgolf.score.methods import ContiguousScoring, ScoringMethod, SlidingScoring
from bitgolf.score.referee import Score, score
from bitgolf.score.text import TokenizedText, append_final_bos
from bitgolf.score.token_bits import token_bits
from helpers.toy import VOCAB, built, toy_model

Charges = npt.NDArray[np.float64]


def text(targets: int, *, seed: int = 0, every: int = 23) -> TokenizedText:
    ids = np.random.default_rng(seed).integers(2, VOCAB, targets)
    ids[::every] = 1
    return TokenizedText(append_final_bos(ids, 1), 3 * targets)


def charged(model: LM, text: TokenizedText, method: ScoringMethod, batch_tokens: int = 4096) -> tuple[Score, Charges]:
    charges = np.zeros(text.num_targets)
    player = method.make_player(model, VOCAB, select_device(), SINGLE_PROCESS)
    return score(player, text, method, batch_tokens=batch_tokens, charges=charges), charges


# ---- sections and windows -------------------------------------------------------------------------------------------


@given(st.integers(1, 700), st.integers(1, 24), st.integers(1, 9), st.booleans(), st.integers(1, 400), st.data())
def test_every_target_once_and_what_is_read_again_is_only_where_lanes_begin(
    targets: int, window: int, rows: int, isolated: bool, batch_tokens: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window))
    method = CachedScoring(window=window, stride=stride, rows=rows, isolated=isolated)
    (section,) = method.sections(text(targets), batch_tokens)
    seen, read, asked_at_once = np.zeros(targets, int), 0, 0
    for track in section.batches:
        assert 1 <= track.rows <= rows
        asked_at_once = max(asked_at_once, window + (track.rows - 1) * stride)
        for windows in track.texts:
            before = None
            for w in windows:
                assert w.start <= w.first_target < w.stop and w.stop - w.start <= window
                assert before is None or w.start == w.first_target == before
                seen[w.first_target : w.stop] += 1
                read, before = read + w.stop - w.start, w.stop
    assert (seen == 1).all()
    assert asked_at_once <= max(batch_tokens, window)
    assert targets <= read <= (targets if isolated else 1.25 * targets)


def test_lanes_read_equally_much_and_short_texts_have_few() -> None:
    method = CachedScoring(window=16, stride=4, rows=5)
    lanes = [list(method.part_windows(*bounds)) for bounds in method.split_stream(12 + 5 * 100)]
    assert [sum(w.stop - w.start for w in lane) for lane in lanes] == [112] * 5
    assert [len(lane) for lane in lanes] == [25] * 5
    assert len(method.split_stream(12 + 2 * 64)) == 2 and len(method.split_stream(3)) == 1


@pytest.mark.parametrize("wrong", [{"stride": 9}, {"stride": 0}, {"rows": 0}])
def test_settings_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        CachedScoring(window=8, **wrong)


# ---- against a naive reference --------------------------------------------------------------------------------------


class Pattern(ForwardContext):
    """A context for a whole text, with a mask to the last `window` keys before the end of a token's stride."""

    def __init__(self, ids: Tensor, window: int, stride: int) -> None:
        super().__init__(ids)
        ends = (self.positions // stride + 1).mul(stride)  # also of a last stride that is cut: its end is not known
        self.since = (ends - window).clamp_min(0)

    @property
    def first_key_position(self) -> Tensor:
        return self.since

    def attention_mask(self, parts: Sequence[Callable[[ForwardContext], Tensor]]) -> tuple[Tensor | None, bool]:
        return self._combined_mask(parts) & (self.key_positions >= self.since[:, None]), False


@torch.no_grad()
def naive(model: LM, text: TokenizedText, method: CachedScoring) -> Charges:
    """The reference: the same attention pattern, with one masked forward for each part of the stream or document."""
    tokens, charges = torch.from_numpy(text.tokens), np.zeros(text.num_targets)
    bounds = text.documents() if method.isolated else method.split_stream(text.num_targets)
    for start, stop in bounds:
        begin = start if method.isolated else max(0, start + method.stride - method.window)
        logits = model.logits(model.hidden(Pattern(tokens[None, begin:stop], method.window, method.stride)))[0]
        charges[start:stop] = token_bits(logits[start - begin :], tokens[start + 1 : stop + 1])
    return charges


def with_everything() -> LM:
    spec = toy_model().edit(Attention, append(qk=part(ScalableSoftmax)))
    spec = spec.edit(Attention, append(qk=part(KeyOffset, unshifted_dims=4, mask_starts=False)))
    spec = spec.edit(SDPACore, append(masks=part(SlidingWindowMask, left=9))).edit(
        SDPACore, append(masks=part(DocumentMask))
    )
    spec = spec.edit(Block, append(post_block=part(RunningMeanSmear, mask_starts=False)))
    return built(spec.edit("", append(post_embed=part(HashedNGramEmbedding, buckets=50, width=8, trigrams=True))))


@pytest.mark.parametrize("make", [lambda: built(toy_model()), with_everything], ids=["toy", "everything"])
@pytest.mark.parametrize(
    "settings",
    [
        {"window": 12, "stride": 4, "rows": 3},
        {"window": 12, "stride": 5, "rows": 2, "isolated": True},
        {"window": 7, "stride": 7, "rows": 4, "isolated": True},
        {"window": 10, "stride": 2, "rows": 2},
    ],
    ids=str,
)
def test_it_is_the_naive_pattern(make: Callable[[], LM], settings: dict[str, Any]) -> None:
    method, model, body = CachedScoring(**settings), make(), text(231, every=41)
    assert np.abs(charged(model, body, method)[1] - naive(model, body, method)).max() < 1e-3


def test_where_nothing_leaves_the_window_it_is_the_plain_score() -> None:
    """With windows that hold whole documents, the bits equal those of contiguous scoring up to rounding."""
    model, body = built(toy_model()), text(300, every=23)
    plain = charged(model, body, ContiguousScoring(window=24, isolated=True))[1]
    for stride in (1, 8, 24):
        method = CachedScoring(window=24, stride=stride, rows=4, isolated=True)
        assert np.abs(charged(model, body, method)[1] - plain).max() < 1e-4


def test_past_the_window_it_is_not_the_sliding_window() -> None:
    """Cached keys depend on tokens before the window, so the bits differ from those of `SlidingScoring`."""
    model, body = built(toy_model()), text(200, every=1000)
    plain = charged(model, body, SlidingScoring(window=16, stride=4))[1]
    kept = charged(model, body, CachedScoring(window=16, stride=4, rows=1))[1]
    assert np.abs(plain[:4] - kept[:4]).max() < 1e-4 and np.abs(plain[40:] - kept[40:]).max() > 1e-2


# ---- properties -----------------------------------------------------------------------------------------------------


def test_documents_do_not_depend_on_rows_nor_on_one_another() -> None:
    model, body = built(toy_model()), text(260, every=37)
    same = [
        charged(model, body, CachedScoring(window=16, stride=4, rows=rows, isolated=True))[1] for rows in (1, 3, 64)
    ]
    alone = np.concatenate(
        [
            charged(model, body._replace(tokens=body.tokens[start : stop + 1]), CachedScoring(window=16, stride=4, isolated=True))[1]
            for start, stop in body.documents()
        ]
    )  # fmt: skip
    assert all(np.abs(other - alone).max() < 1e-4 for other in same)


def test_totals_do_not_depend_on_how_rows_are_divided_into_tracks() -> None:
    model, body, method = built(toy_model()), text(600), CachedScoring(window=8, stride=4, rows=6)
    results = [charged(model, body, method, batch_tokens=n) for n in (1, 17, 4096)]
    counts = [len(list(next(iter(method.sections(body, n))).batches)) for n in (1, 17, 4096)]
    assert counts == [6, 2, 1]
    assert all(np.abs(charges - results[0][1]).max() < 1e-4 for _, charges in results)
    assert {result.tokens_read for result, _ in results} == {600 + 5 * 4}


@pytest.mark.parametrize("isolated", [False, True])
def test_no_target_depends_on_what_comes_after(isolated: bool) -> None:
    model, body, method = built(toy_model()), text(300), CachedScoring(window=16, stride=5, rows=3, isolated=isolated)
    before = charged(model, body, method)[1]
    tokens = body.tokens.copy()
    tokens[201:300] = (tokens[201:300] + 5) % (VOCAB - 2) + 2
    for start, _ in body.documents():  # documents begin at the same positions, so the windows stay the same
        tokens[start] = 1
    after = charged(model, body._replace(tokens=tokens), method)[1]
    assert np.abs(before[:200] - after[:200]).max() < 1e-4 < np.abs(before[201:] - after[201:]).max()


def test_a_player_frees_its_memory() -> None:
    player = KVCachePlayer(built(toy_model()), VOCAB, select_device(), 8, 4)
    score(player, text(100), CachedScoring(window=8, stride=4))
    assert player.cache.buffers
    player.close()
    assert not player.cache.buffers
