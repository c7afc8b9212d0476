"""The reference attention core, PyTorch's scaled dot-product attention, and the attention masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch.nn.functional as F
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import TokenCount, TokenCountOrZero
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.model.attention.cores.chunked import MAX_DENSE_MASK_LENGTH, MaskMod, chunked_attention
from bitgolf.model.attention.cores.segment_capacity import SegmentLimits, segment_starts
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import AttentionCore, AttentionMask
from bitgolf.model.part import build_chain


@register
class SDPACore(AttentionCore):
    """softmax(q k^T / sqrt(d)) v over the keys that causality and all masks allow.

    Rows of more than `MAX_DENSE_MASK_LENGTH` tokens are processed in chunks (`chunked_attention`), without a (T, T)
    mask. Raises `BitgolfError` if such a row continues a cached text, or if one of its masks has no
    `AttentionMask.mask_mod`.
    """

    def __init__(self, context: BuildContext, /, *, masks: tuple[Spec[AttentionMask], ...] = ()) -> None:
        super().__init__()
        self.masks = build_chain(masks, context)
        self.gqa = context.heads != context.kv_heads

    def forward(self, q: Tensor, k: Tensor, v: Tensor, context: ForwardContext) -> Tensor:
        k, v = context.update_kv(self, k, v)
        if q.shape[1] * k.shape[1] > MAX_DENSE_MASK_LENGTH**2:
            return chunked_attention(q, k, v, self._mask_mods(context, k.shape[1]), self.span, grouped=self.gqa)
        mask, causal = context.attention_mask(list(self.masks))
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=mask,
            is_causal=causal,
            enable_gqa=self.gqa,
        )
        return y.transpose(1, 2)

    @property
    def span(self) -> int | None:
        """Maximum number of keys per query, itself included; None if only causality limits it."""
        limits = [mask.span for mask in self.mask_list if mask.span is not None]
        return min(limits, default=None)

    @property
    def mask_list(self) -> list[AttentionMask]:
        return cast(list[AttentionMask], list(self.masks))

    def _mask_mods(self, context: ForwardContext, keys: int) -> list[MaskMod]:
        if not context.full_sequence:
            message = f"cannot decode {context.ids.shape[1]:,} tokens at once with {keys:,} keys in the cache"
            raise BitgolfError(
                message, where="attention", hint=f"use a window or pieces of at most {MAX_DENSE_MASK_LENGTH:,} tokens"
            )
        mask_mods = [(mask, mask.mask_mod(context)) for mask in self.mask_list]
        if without := [type(mask).__name__ for mask, mask_mod in mask_mods if mask_mod is None]:
            message = f"{without[0]} has no mask_mod, so a row of {keys:,} tokens would need a {keys:,} x {keys:,} mask"
            raise BitgolfError(message, where="attention", hint=f"use rows of at most {MAX_DENSE_MASK_LENGTH:,} tokens")
        return [mask_mod for _, mask_mod in mask_mods if mask_mod is not None]


@register
class SlidingWindowMask(AttentionMask):
    """Sliding-window attention: query t attends to keys t - left … t, that is, to left + 1 keys including itself."""

    def __init__(self, context: BuildContext, /, *, left: TokenCount) -> None:
        super().__init__()
        if left < 1:
            raise RecipeError(f"must be at least 1 key, got {left}", where="SlidingWindowMask.left")
        self.left = left

    @property
    def span(self) -> int:
        return self.left + 1

    @property
    def label(self) -> str:
        return f"{type(self).__name__}({self.left})"

    def forward(self, context: ForwardContext) -> Tensor:
        return context.relative_positions <= self.left

    def mask_mod(self, context: ForwardContext) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        return lambda b, q, k: q - k <= self.left


@register
class DocumentMask(AttentionMask):
    """A query attends only to keys of its own document."""

    def forward(self, context: ForwardContext) -> Tensor:
        return (context.document_ids[:, :, None] == context.key_document_ids[:, None, :])[:, None]

    def mask_mod(self, context: ForwardContext) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        documents = context.document_ids
        return lambda b, q, k: documents[b, q] == documents[b, k]


@register
class SegmentMask(AttentionMask):
    """A query attends only to keys of its own segment (Parameter Golf #1530).

    A segment is a document, or a piece of at most `max_length` tokens of a longer document. Variable-length kernels
    compute the same on packed rows. max_length=0 means no limit and equals `DocumentMask`.
    """

    def __init__(self, context: BuildContext, /, *, max_length: TokenCountOrZero = 2048) -> None:
        super().__init__()
        if max_length < 0:
            raise RecipeError(f"must be at least 0 tokens, got {max_length}", where="SegmentMask.max_length")
        self.max_length = max_length

    @property
    def span(self) -> int | None:
        return self.max_length or None

    @property
    def label(self) -> str:
        return f"{type(self).__name__}({self.max_length})"

    @property
    def limits(self) -> SegmentLimits:
        """The smallest and the largest maximum length during a run."""
        return SegmentLimits(self.max_length, self.max_length)

    def segment_ids(self, context: ForwardContext) -> Tensor:
        """Index of the segment of each key within its row, (B, S)."""
        return context.cached(
            ("segments", self.max_length), lambda: segment_starts(context.key_document_ids, self.max_length).cumsum(1)
        )

    def forward(self, context: ForwardContext) -> Tensor:
        keys = self.segment_ids(context)
        queries = context.at_queries(keys)
        return (queries[:, :, None] == keys[:, None, :])[:, None]

    def mask_mod(self, context: ForwardContext) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        segments = self.segment_ids(context)
        return lambda b, q, k: segments[b, q] == segments[b, k]
