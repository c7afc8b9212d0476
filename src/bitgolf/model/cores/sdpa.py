"""The reference core: PyTorch's scaled dot-product attention, causal, with optional masks."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from bitgolf.errors import RecipeError
from bitgolf.model.core import Bus, chain
from bitgolf.model.cores.segments import segment_starts
from bitgolf.model.sockets import Core, Mask
from bitgolf.spec import Place, Spec, register


@register
class Sdpa(Core):
    """softmax(q k^T / sqrt(d)) v over the keys that causality and every mask allow."""

    def __init__(self, at: Place, /, *, masks: tuple[Spec[Mask], ...] = ()) -> None:
        super().__init__()
        self.masks = chain(masks, at)
        self.grouped = at.heads != at.kv_heads

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bus: Bus) -> Tensor:
        k, v = bus.recall(self, k, v)
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


@register
class Window(Mask):
    """Window attention: query t sees keys t - width … t (width + 1 keys, itself included)."""

    def __init__(self, at: Place, /, *, width: int) -> None:
        super().__init__()
        if width < 1:
            raise RecipeError(f"a window of {width} keys is not one", place="Window.width")
        self.width = width

    def forward(self, bus: Bus) -> Tensor:
        return bus.lags <= self.width

    def rule(self, bus: Bus) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        return lambda b, q, k: q - k <= self.width


@register
class SameDocument(Mask):
    """A query sees only keys of its own document: nothing leaks over a document start."""

    def __init__(self, at: Place, /) -> None:
        super().__init__()

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
