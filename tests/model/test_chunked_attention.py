"""Chunked attention over long rows: equal to attention with a dense mask, without a tensor of its size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError
from bitgolf.model.attention.cores import chunked, sdpa
from bitgolf.model.attention.cores.chunked import MAX_DENSE_MASK_LENGTH, MAX_MASK_ELEMENTS, chunk_length
from bitgolf.model.attention.cores.sdpa import DocumentMask, SDPACore, SegmentMask, SlidingWindowMask
from bitgolf.model.decoding.context import DecodingContext
from bitgolf.model.decoding.kv_cache import KVCache
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import AttentionMask
from helpers.live_tensors import MemoryTracker

AT = BuildContext(vocab=50, dim=64, heads=4, kv_heads=2)
MASKS: dict[str, tuple[Spec[AttentionMask], ...]] = {
    "none": (),
    "window": (part(SlidingWindowMask, left=20),),
    "documents": (part(DocumentMask),),
    "segments": (part(SegmentMask, max_length=30),),
    "window and segments": (part(SlidingWindowMask, left=50), part(SegmentMask, max_length=9)),
}
LENGTH = 300  # not a multiple of the chunk length


def example(dtype: torch.dtype = torch.float64, length: int = LENGTH) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(0)
    ids = torch.randint(2, 50, (2, length))
    ids[0, 0] = ids[0, 40] = ids[0, 41] = ids[1, 130] = 1
    shapes = [(2, length, heads, 16) for heads in (4, 2, 2)]
    return ids, [torch.randn(s, dtype=dtype).requires_grad_() for s in shapes]


def answers(core: SDPACore, ids: Tensor, qkv: list[Tensor]) -> list[Tensor]:
    y = core(*qkv, ForwardContext(ids))
    return [y, *torch.autograd.grad(y, qkv, torch.ones_like(y).cumsum(1))]


@pytest.mark.parametrize("name", MASKS)
def test_blocks_compute_what_a_whole_mask_does(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    core, (ids, qkv) = SDPACore(AT, masks=MASKS[name]), example()
    whole = answers(core, ids, qkv)
    monkeypatch.setattr(sdpa, "MAX_DENSE_MASK_LENGTH", 64)
    monkeypatch.setattr(chunked, "MAX_MASK_ELEMENTS", 64 * 128)
    assert chunk_length(LENGTH, core.span) == 64  # five chunks, the last one shorter
    for a, b in zip(answers(core, ids, qkv), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("length", "reach"), [(98_304, 2048), (98_304, None), (16_384, 8192), (131_072, 1)])
def test_no_block_has_a_mask_over_the_limit(length: int, reach: int | None) -> None:
    size = chunk_length(length, reach)
    keys = length if reach is None else min(length, size + reach)
    assert size >= chunked.MIN_CHUNK_LENGTH and size * keys <= max(MAX_MASK_ELEMENTS, chunked.MIN_CHUNK_LENGTH * length)


def test_a_long_row_holds_the_mask_of_one_block_at_a_time() -> None:
    """Forward and backward pass over 12,288 tokens. A dense mask would have 151 million elements, 604 MB as float32."""
    core = SDPACore(BuildContext(vocab=50, dim=8, heads=1, kv_heads=1), masks=(part(DocumentMask),))
    length = MAX_DENSE_MASK_LENGTH + MAX_DENSE_MASK_LENGTH // 2
    ids = torch.full((1, length), 7)
    qkv = [torch.randn(1, length, 1, 8).requires_grad_() for _ in range(3)]
    with MemoryTracker() as live:
        torch.autograd.grad(core(*qkv, ForwardContext(ids)).sum(), qkv)
    assert 0 < live.largest_elements <= MAX_MASK_ELEMENTS
    assert live.peak_bytes < 10 * MAX_MASK_ELEMENTS  # a boolean mask, its float copy, and remains of the previous chunk


def test_a_long_piece_of_a_text_read_in_pieces_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdpa, "MAX_DENSE_MASK_LENGTH", 64)
    core, (ids, qkv) = SDPACore(AT), example(torch.float32)
    context = DecodingContext(ids, 1, KVCache(2, 512, torch.device("cpu")))
    with pytest.raises(BitgolfError, match=r"decode 300 tokens at once with 300 keys.*\n?.*at most 64"):
        core(*(x.detach() for x in qkv), context)


class Odd(AttentionMask):
    """A mask without `mask_mod`."""

    def forward(self, context: ForwardContext) -> Tensor:
        return context.relative_positions % 2 == 0


def test_a_mask_without_a_rule_is_refused_for_a_long_row(monkeypatch: pytest.MonkeyPatch) -> None:
    core, (ids, qkv) = SDPACore(AT), example(torch.float32)
    core.masks.append(Odd())
    core(*qkv, ForwardContext(ids))
    monkeypatch.setattr(sdpa, "MAX_DENSE_MASK_LENGTH", 64)
    with pytest.raises(BitgolfError, match="Odd has no mask_mod"):
        core(*qkv, ForwardContext(ids))
