"""Segment masks: the published boundaries, isolated documents, and segments no longer than the cap."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append
from bitgolf.config.spec import part
from bitgolf.errors import RecipeError
from bitgolf.model.attention.cores.sdpa import DocumentMask, SDPACore, SegmentMask
from bitgolf.model.attention.cores.segment_capacity import segment_starts
from bitgolf.model.decoding.context import DecodingContext
from bitgolf.model.decoding.kv_cache import KVCache
from bitgolf.model.forward_context import ForwardContext
from helpers.segments import cu_seqlens_reference
from helpers.toy import VOCAB, built, toy_model

AT = BuildContext(vocab=VOCAB)


def text(tokens: int, bos: list[int], *, seed: int = 0) -> Tensor:
    """Random ids (1, tokens), with document starts at the positions `bos`."""
    ids = torch.randint(2, VOCAB, (1, tokens), generator=torch.Generator().manual_seed(seed))
    ids[0, bos] = 1
    return ids


@pytest.mark.parametrize("case", range(5))
def test_boundaries_are_the_published_ones(shared: Path, case: int) -> None:
    known = load_file(shared / "oracles" / "micro.safetensors")
    tokens, cap, bucket, longest = known[f"cu_seqlens/case{case}/N_cap_bucket_max"].tolist()
    found = cu_seqlens_reference(text(tokens, known[f"cu_seqlens/case{case}/bos"].tolist()), 1, cap, bucket)
    assert found.dtype == torch.int32
    assert found.tolist() == known[f"cu_seqlens/case{case}/cu"].tolist()
    assert int(found.diff().max()) == longest


@pytest.mark.parametrize("cap", [0, 1, 3, 100])
def test_boundaries_of_several_rows_are_those_of_each(cap: int) -> None:
    rows = torch.cat([text(17, [0, 4, 5], seed=1), text(17, [9], seed=2), text(17, [], seed=3)])
    alone = [cu_seqlens_reference(row[None], 1, cap, 1) for row in rows]
    assert [b[-1] for b in alone] == [17] * 3
    joined = torch.cat([b[:-1] + 17 * i for i, b in enumerate(alone)] + [torch.tensor([51])])
    assert cu_seqlens_reference(rows, 1, cap, 1).tolist() == joined.tolist()


@pytest.mark.parametrize(("documents", "entries"), [(6, 8), (7, 8), (8, 16)])
def test_a_bucket_holds_the_end_of_the_last_segment(documents: int, entries: int) -> None:
    found = cu_seqlens_reference(text(30, list(range(documents))), 1, 0, 8)
    assert found.tolist() == [*range(documents), *[30] * (entries - documents)]


@pytest.mark.parametrize("cap", [1, 4, 7])
def test_segments_never_exceed_the_cap_nor_cross_a_document(cap: int) -> None:
    ids = text(60, [3, 4, 20, 41])
    ends = cu_seqlens_reference(ids, 1, cap, 1).tolist()
    assert all(0 < b - a <= cap for a, b in pairwise(ends))
    assert {0, 3, 4, 20, 41, 60} <= set(ends)
    mask = SegmentMask(AT, max_length=cap)(ForwardContext(ids, 1))[0, 0]
    expected = torch.block_diag(*(torch.ones(b - a, b - a) for a, b in pairwise(ends))).bool()
    assert torch.equal(mask, expected)


def test_without_a_cap_it_is_the_document_mask() -> None:
    context = ForwardContext(torch.cat([text(24, [0, 12]), text(24, [7, 8], seed=4)]), 1)
    assert torch.equal(SegmentMask(AT, max_length=0)(context), DocumentMask(AT)(context))
    assert torch.equal(SegmentMask(AT, max_length=24)(context), DocumentMask(AT)(context))
    with pytest.raises(RecipeError, match="must be from 0 to 16,777,216, got -1"):
        part(SegmentMask, max_length=-1)(AT)


def test_a_text_that_is_read_in_pieces_has_the_same_mask() -> None:
    ids = text(30, [4, 19], seed=5)
    whole = SegmentMask(AT, max_length=6)(ForwardContext(ids, 1))
    cache = KVCache(1, 30, torch.device("cpu"))
    for first, end in ((0, 1), (1, 9), (9, 30)):
        context = DecodingContext(ids[:, first:end], 1, cache)
        piece = SegmentMask(AT, max_length=6)(context)
        context.commit()
        assert torch.equal(piece, whole[:, :, first:end, :end])


def test_a_document_says_the_same_packed_and_alone() -> None:
    """The positions of a packed document continue over the row, but only their differences matter."""
    model = built(toy_model().edit(SDPACore, append(masks=part(SegmentMask, max_length=8))))
    ids = text(50, [6, 31])
    packed = model(ids)
    for first, end in ((0, 6), (6, 31), (31, 50)):
        assert (model(ids[:, first:end]) - packed[:, first:end]).abs().max() < 1e-5
    pieces = segment_starts((ids == 1).cumsum(1), 8)[0].nonzero().flatten().tolist()
    assert pieces == [0, 6, 14, 22, 30, 31, 39, 47]
    assert (model(ids[:, 14:22]) - packed[:, 14:22]).abs().max() < 1e-5
