"""The reference core: PyTorch's scaled dot-product attention, causal, with optional masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch.nn.functional as F
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.model.attention.cores.chunked import MAX_DENSE_MASK_LENGTH, MaskMod, chunked_attention
from bitgolf.model.attention.cores.segment_capacity import segment_starts
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import AttentionCore, AttentionMask
from bitgolf.model.part import build_chain


@register
class SDPACore(AttentionCore):
    """softmax(q k^T / sqrt(d)) v over the keys that causality and every mask allow.

    A row of more than `MAX_DENSE_MASK_LENGTH` tokens is read in blocks (`blocked`), so that no mask is (T, T). Raises
    `BitgolfError` where such a row goes on with an earlier piece of text, or has a mask without a rule of indices.
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
        """The most keys that a query sees, itself included; None where only causality limits them."""
        limits = [mask.span for mask in self.mask_list if mask.span is not None]
        return min(limits, default=None)

    @property
    def mask_list(self) -> list[AttentionMask]:
        return cast(list[AttentionMask], list(self.masks))

    def _mask_mods(self, context: ForwardContext, keys: int) -> list[MaskMod]:
        if not context.full_sequence:
            cause = f"{context.ids.shape[1]:,} tokens are read at once over {keys:,} keys of a text read in pieces"
            raise BitgolfError(
                cause, where="attention", hint=f"a window or a piece of at most {MAX_DENSE_MASK_LENGTH:,} tokens"
            )
        rules = [(mask, mask.mask_mod(context)) for mask in self.mask_list]
        if without := [type(mask).__name__ for mask, rule in rules if rule is None]:
            cause = f"{without[0]} has no rule of indices, so a row of {keys:,} tokens would take a mask of its square"
            raise BitgolfError(cause, where="attention", hint=f"rows of at most {MAX_DENSE_MASK_LENGTH:,} tokens")
        return [rule for _, rule in rules if rule is not None]


@register
class SlidingWindowMask(AttentionMask):
    """Window attention: query t sees keys t - left … t (left + 1 keys, itself included)."""

    def __init__(self, context: BuildContext, /, *, left: int) -> None:
        super().__init__()
        if left < 1:
            raise RecipeError(f"a window of {left} keys is not one", where="SlidingWindowMask.left")
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
    """A query sees only keys of its own document: nothing leaks over a document start."""

    def forward(self, context: ForwardContext) -> Tensor:
        return (context.document_ids[:, :, None] == context.key_document_ids[:, None, :])[:, None]

    def mask_mod(self, context: ForwardContext) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        documents = context.document_ids
        return lambda b, q, k: documents[b, q] == documents[b, k]


@register
class SegmentMask(AttentionMask):
    """A query sees only keys of its own document, and of its own piece of at most `max_length` tokens of it (Parameter Golf #1530).

    The mask of what kernels of variable length do with packed rows. A cap of 0 is none: then it is `DocumentMask`.
    """

    def __init__(self, context: BuildContext, /, *, max_length: int = 2048) -> None:
        super().__init__()
        if max_length < 0:
            raise RecipeError(f"a segment of at most {max_length} tokens is not one", where="SegmentMask.max_length")
        self.max_length = max_length

    @property
    def span(self) -> int | None:
        return self.max_length or None

    @property
    def label(self) -> str:
        return f"{type(self).__name__}({self.max_length})"

    def segment_ids(self, context: ForwardContext) -> Tensor:
        """Number of the segment that each key belongs to, (B, S)."""
        return context.cached(
            ("segments", self.max_length), lambda: segment_starts(context.key_document_ids, self.max_length).cumsum(1)
        )

    def forward(self, context: ForwardContext) -> Tensor:
        keys = self.segment_ids(context)
        queries = context.at_queries(keys)
        return (queries[:, :, None] == keys[:, None, :])[:, None]

    def mask_mod(self, context: ForwardContext) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        numbers = self.segment_ids(context)
        return lambda b, q, k: numbers[b, q] == numbers[b, k]
