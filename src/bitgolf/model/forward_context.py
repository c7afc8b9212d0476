"""The context of one forward: token ids and positions, attention masks, and tensors that parts compute once and share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.model.attention.rope_scaling import RoPEScaling

V = TypeVar("V")


class ForwardContext:
    """What flows past the blocks in one forward: token ids, the stream's first state, values made once and shared.

    This one sees a whole sequence at once (`full_sequence`). `score.stream` has one with a memory, by which the same model reads a text piece by piece.
    """

    full_sequence: ClassVar[bool] = True

    def __init__(self, ids: Tensor, bos: int = 1, rope_scaling: RoPEScaling | None = None) -> None:
        self.ids, self.bos = ids, bos
        self.rope_scaling = rope_scaling  # takes the place of the scaling of every `RoPE`
        self.x0: Tensor | None = None
        self.shared: dict[str, Tensor] = {}  # what one part leaves for others, by name
        self.visit = 0  # how many blocks have run: a looped block is visited more than once
        self._cache: dict[Any, Any] = {}

    def for_ids(self, ids: Tensor) -> ForwardContext:
        """A new context for other ids, (B, T), of the same settings."""
        return ForwardContext(ids, self.bos, self.rope_scaling)

    def cached(self, key: Any, make: Callable[[], V]) -> V:
        """A value that many layers need (a rotary table, a mask), made once in a forward."""
        if key not in self._cache:
            self._cache[key] = make()
        return cast(V, self._cache[key])

    @property
    def positions(self) -> Tensor:
        """Positions of the tokens at hand in their text, (T,), or (B, T) where each row has its own."""
        return self.cached("positions", lambda: torch.arange(self.ids.shape[1], device=self.ids.device))

    @property
    def key_positions(self) -> Tensor:
        """Positions of all that can be attended to, consecutive, (S,) or (B, S): here the same."""
        return self.positions

    @property
    def first_key_position(self) -> Tensor | int:
        """Position of the first key that counts, one number or (B, 1): here the row's start."""
        return 0

    @property
    def relative_positions(self) -> Tensor:
        """Query minus key position, (T, S), or (B, 1, T, S) where each row has its own."""
        return self.cached(
            "lags", lambda: add_head_axis(self.positions[..., :, None] - self.key_positions[..., None, :])
        )

    def at_queries(self, of_keys: Tensor) -> Tensor:
        """Out of something for each key, (B, S), what the tokens at hand have, (B, T): here the same."""
        return of_keys

    def rotary_angles(self, frequencies: Tensor) -> Tensor:
        """Positions times frequencies (F,), (T, F) or (B, T, F): in float32, enough for a sequence seen at once."""
        return self.positions.float()[..., None] * frequencies

    @property
    def document_ids(self) -> Tensor:
        """Number of the document that each token belongs to, (B, T)."""
        return self.cached("documents", lambda: (self.ids == self.bos).cumsum(1))

    @property
    def key_document_ids(self) -> Tensor:
        return self.document_ids

    @property
    def document_starts(self) -> Tensor:
        """True where a document starts, (B, T)."""
        return self.cached("starts", lambda: self.ids == self.bos)

    def previous_ids(self, n: int) -> Tensor:
        """The ids n positions back, (B, T); -1 where there is none."""
        return F.pad(self.ids, (n, 0), value=-1)[:, : self.ids.shape[1]]

    def token_shift(self, part: nn.Module, x: Tensor) -> Tensor:
        """x (B, T, …) of the position before, zeros before the first. A part asks once a visit."""
        return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)

    def cumsum(self, part: nn.Module, x: Tensor) -> Tensor:
        """The sum of x (B, T, …) over the positions up to each. A part asks once a visit."""
        return x.cumsum(1)

    def update_kv(self, part: nn.Module, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the past, then these; here there is no past beyond the sequence itself."""
        return k, v

    def attention_mask(self, parts: Sequence[Callable[[ForwardContext], Tensor]]) -> tuple[Tensor | None, bool]:
        """(mask, causal) as `scaled_dot_product_attention` takes them: a boolean (…, T, S), True where a key is seen."""
        if not parts:
            return None, True
        return self.cached(("mask", tuple(map(id, parts))), lambda: self._combined_mask(parts)), False

    def _combined_mask(self, parts: Sequence[Callable[[ForwardContext], Tensor]]) -> Tensor:
        mask = add_head_axis(self.positions[..., :, None] >= self.key_positions[..., None, :])
        for p in parts:
            mask = mask & p(self)
        return mask


def add_head_axis(pairs: Tensor) -> Tensor:
    """(T, S) as it is, (B, T, S) as (B, 1, T, S)."""
    return pairs if pairs.ndim == 2 else pairs[:, None]
