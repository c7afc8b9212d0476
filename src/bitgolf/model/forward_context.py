"""State of one forward pass: token ids, positions, attention masks, and tensors that parts share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.model.attention.rope_scaling import RoPEScaling

V = TypeVar("V")


class ForwardContext:
    """State of one forward pass that all parts share: token ids, positions, x0, and cached values.

    This class processes whole sequences (`full_sequence`). `decoding.context.DecodingContext` is the counterpart with a
    key/value cache for incremental decoding.
    """

    full_sequence: ClassVar[bool] = True

    def __init__(self, ids: Tensor, bos: int = 1, rope_scaling: RoPEScaling | None = None) -> None:
        self.ids, self.bos = ids, bos
        self.rope_scaling = rope_scaling  # if set, replaces the scaling of every `RoPE`
        self.x0: Tensor | None = None  # the residual stream after `post_embed`, (B, T, D)
        self.shared: dict[str, Tensor] = {}  # tensors that one part provides for others, by name
        self.visit = 0  # number of blocks executed so far; a looped block counts each time
        self._cache: dict[Any, Any] = {}

    def for_ids(self, ids: Tensor) -> ForwardContext:
        """A new context with the same settings for other ids, (B, T)."""
        return ForwardContext(ids, self.bos, self.rope_scaling)

    def cached(self, key: Any, make: Callable[[], V]) -> V:
        """Value of `make()`, computed once per key: for rotary tables and masks, which many layers need."""
        if key not in self._cache:
            self._cache[key] = make()
        return cast(V, self._cache[key])

    @property
    def positions(self) -> Tensor:
        """Position of each token in its text: (T,), or (B, T) if the rows differ."""
        return self.cached("positions", lambda: torch.arange(self.ids.shape[1], device=self.ids.device))

    @property
    def key_positions(self) -> Tensor:
        """Positions of the keys, consecutive: (S,) or (B, S). For whole sequences equal to `positions`."""
        return self.positions

    @property
    def first_key_position(self) -> Tensor | int:
        """Position of the first valid key: a number or (B, 1). For whole sequences 0."""
        return 0

    @property
    def relative_positions(self) -> Tensor:
        """Query position minus key position: (T, S), or (B, 1, T, S) if the rows differ."""
        return self.cached(
            "lags", lambda: add_head_axis(self.positions[..., :, None] - self.key_positions[..., None, :])
        )

    def at_queries(self, of_keys: Tensor) -> Tensor:
        """Entries of the queries, (B, T), out of a tensor over keys, (B, S). For whole sequences the tensor itself."""
        return of_keys

    def rotary_angles(self, frequencies: Tensor) -> Tensor:
        """Positions times frequencies (F,): (T, F) or (B, T, F), in radians. float32 suffices for whole sequences."""
        return self.positions.float()[..., None] * frequencies

    @property
    def document_ids(self) -> Tensor:
        """Index of the document of each token within its row, (B, T)."""
        return self.cached("documents", lambda: (self.ids == self.bos).cumsum(1))

    @property
    def key_document_ids(self) -> Tensor:
        """Index of the document of each key within its row, (B, S)."""
        return self.document_ids

    @property
    def document_starts(self) -> Tensor:
        """True where a document starts (at BOS), (B, T)."""
        return self.cached("starts", lambda: self.ids == self.bos)

    def previous_ids(self, n: int) -> Tensor:
        """Token ids n positions earlier, (B, T); -1 where there is no such token."""
        return F.pad(self.ids, (n, 0), value=-1)[:, : self.ids.shape[1]]

    def token_shift(self, part: nn.Module, x: Tensor, steps: int = 1) -> Tensor:
        """x (B, T, …) of `steps` positions earlier, zero at the first ones. Once per part, visit and number of steps."""
        return torch.cat([torch.zeros_like(x[:, :steps]), x[:, :-steps]], 1)

    def cumsum(self, part: nn.Module, x: Tensor) -> Tensor:
        """Cumulative sum of x (B, T, …) over positions, inclusive. A part may call this once per visit."""
        return x.cumsum(1)

    def update_kv(self, part: nn.Module, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Cached keys and values followed by the new ones. Whole sequences have no cache: k and v are returned."""
        return k, v

    def attention_mask(self, parts: Sequence[Callable[[ForwardContext], Tensor]]) -> tuple[Tensor | None, bool]:
        """`attn_mask` and `is_causal` for `scaled_dot_product_attention`.

        The mask is boolean (…, T, S), True where a query attends to a key; None if causality is the only restriction.
        """
        if not parts:
            return None, True
        return self.cached(("mask", tuple(map(id, parts))), lambda: self._combined_mask(parts)), False

    def _combined_mask(self, parts: Sequence[Callable[[ForwardContext], Tensor]]) -> Tensor:
        mask = add_head_axis(self.positions[..., :, None] >= self.key_positions[..., None, :])
        for p in parts:
            mask = mask & p(self)
        return mask


def add_head_axis(pairs: Tensor) -> Tensor:
    """Insert a head axis: (B, T, S) -> (B, 1, T, S). (T, S) is returned unchanged."""
    return pairs if pairs.ndim == 2 else pairs[:, None]
