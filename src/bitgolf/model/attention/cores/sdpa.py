"""The reference core: PyTorch's scaled dot-product attention, causal, with optional masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch.nn.functional as F
from torch import Tensor

from bitgolf.config.build_context import Place
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.model.attention.cores.chunked import LONGEST_MASK, Rule, attend_in_blocks
from bitgolf.model.attention.cores.segment_capacity import segment_starts
from bitgolf.model.forward_context import Bus
from bitgolf.model.interfaces import Core, Mask
from bitgolf.model.part import chain


@register
class Sdpa(Core):
    """softmax(q k^T / sqrt(d)) v over the keys that causality and every mask allow.

    A row of more than `LONGEST_MASK` tokens is read in blocks (`blocked`), so that no mask is (T, T). Raises
    `BitgolfError` where such a row goes on with an earlier piece of text, or has a mask without a rule of indices.
    """

    def __init__(self, at: Place, /, *, masks: tuple[Spec[Mask], ...] = ()) -> None:
        super().__init__()
        self.masks = chain(masks, at)
        self.grouped = at.heads != at.kv_heads

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bus: Bus) -> Tensor:
        k, v = bus.recall(self, k, v)
        if q.shape[1] * k.shape[1] > LONGEST_MASK**2:
            return attend_in_blocks(q, k, v, self._rules(bus, k.shape[1]), self.reach, grouped=self.grouped)
        mask, causal = bus.masks(list(self.masks))
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=mask,
            is_causal=causal,
            enable_gqa=self.grouped,
        )
        return y.transpose(1, 2)

    @property
    def reach(self) -> int | None:
        """The most keys that a query sees, itself included; None where only causality limits them."""
        limits = [mask.reach for mask in self.parts if mask.reach is not None]
        return min(limits, default=None)

    @property
    def parts(self) -> list[Mask]:
        return cast(list[Mask], list(self.masks))

    def _rules(self, bus: Bus, keys: int) -> list[Rule]:
        if not bus.whole:
            cause = f"{bus.ids.shape[1]:,} tokens are read at once over {keys:,} keys of a text read in pieces"
            raise BitgolfError(cause, place="attention", mend=f"a window or a piece of at most {LONGEST_MASK:,} tokens")
        rules = [(mask, mask.rule(bus)) for mask in self.parts]
        if without := [type(mask).__name__ for mask, rule in rules if rule is None]:
            cause = f"{without[0]} has no rule of indices, so a row of {keys:,} tokens would take a mask of its square"
            raise BitgolfError(cause, place="attention", mend=f"rows of at most {LONGEST_MASK:,} tokens")
        return [rule for _, rule in rules if rule is not None]


@register
class Window(Mask):
    """Window attention: query t sees keys t - width … t (width + 1 keys, itself included)."""

    def __init__(self, at: Place, /, *, width: int) -> None:
        super().__init__()
        if width < 1:
            raise RecipeError(f"a window of {width} keys is not one", place="Window.width")
        self.width = width

    @property
    def reach(self) -> int:
        return self.width + 1

    @property
    def label(self) -> str:
        return f"{type(self).__name__}({self.width})"

    def forward(self, bus: Bus) -> Tensor:
        return bus.lags <= self.width

    def rule(self, bus: Bus) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        return lambda b, q, k: q - k <= self.width


@register
class SameDocument(Mask):
    """A query sees only keys of its own document: nothing leaks over a document start."""

    def forward(self, bus: Bus) -> Tensor:
        return (bus.documents[:, :, None] == bus.key_documents[:, None, :])[:, None]

    def rule(self, bus: Bus) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        documents = bus.documents
        return lambda b, q, k: documents[b, q] == documents[b, k]


@register
class Segments(Mask):
    """A query sees only keys of its own document, and of its own piece of at most `cap` tokens of it (Parameter Golf #1530).

    The mask of what kernels of variable length do with packed rows. A cap of 0 is none: then it is `SameDocument`.
    """

    def __init__(self, at: Place, /, *, cap: int = 2048) -> None:
        super().__init__()
        if cap < 0:
            raise RecipeError(f"a segment of at most {cap} tokens is not one", place="Segments.cap")
        self.cap = cap

    @property
    def reach(self) -> int | None:
        return self.cap or None

    @property
    def label(self) -> str:
        return f"{type(self).__name__}({self.cap})"

    def numbers(self, bus: Bus) -> Tensor:
        """Number of the segment that each key belongs to, (B, S)."""
        return bus.memo(("segments", self.cap), lambda: segment_starts(bus.key_documents, self.cap).cumsum(1))

    def forward(self, bus: Bus) -> Tensor:
        keys = self.numbers(bus)
        queries = bus.own(keys)
        return (queries[:, :, None] == keys[:, None, :])[:, None]

    def rule(self, bus: Bus) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        numbers = self.numbers(bus)
        return lambda b, q, k: numbers[b, q] == numbers[b, k]
