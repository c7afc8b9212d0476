"""Embeddings of the last few tokens at once, from a hash table too small for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import Place
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import Bus
from bitgolf.model.inits import Zeros
from bitgolf.model.interfaces import Init, StreamPart
from bitgolf.model.linear import Embedding, Linear


class Hash:
    """Which row of a table stands for a few tokens in a row."""

    def slots(self, ids: Sequence[Tensor], rows: int) -> Tensor:
        """Rows in [0, rows), (B, T). `ids`: the tokens at hand, those one before, …, each (B, T); -1 where there is none."""
        raise NotImplementedError


@register
class XorHash(Hash):
    """xor(36313 id_t, 27191 id_{t-1}, 51497 id_{t-2}) in int32 with wrap-around, modulo rows - 1: #164 ... #1512.

    The last row is for positions without all of these tokens.
    """

    factors = (36313, 27191, 51497)

    def slots(self, ids: Sequence[Tensor], rows: int) -> Tensor:
        mixed = torch.zeros_like(ids[0])
        for token, factor in zip(ids, self.factors, strict=False):
            mixed = mixed ^ (factor * token)
        wrapped = mixed.int()  # keeps the low 32 bits, as a product of int32 does
        return torch.where(ids[-1] < 0, rows - 1, wrapped % (rows - 1)).long()


@register
class ProductHash(Hash):
    """(multiplier id_{t-1} + id_t) modulo rows, 0 for a token that is not there: #65 (92821), #162 (31)."""

    def __init__(self, *, multiplier: int = 92821) -> None:
        self.multiplier = multiplier

    def slots(self, ids: Sequence[Tensor], rows: int) -> Tensor:
        mixed = torch.zeros_like(ids[0])
        for token in reversed(ids):
            mixed = (self.multiplier * mixed + token.clamp_min(0)) % rows
        return mixed


@register
class HashedBigrams(StreamPart):
    """x + scale * P U[hash(id_t, id_{t-1})]: U (rows, width) starts as `table`, P (D, width) is a `Linear`.

    `scale` is a learned number, None for none; `trigrams` adds the row of the last three tokens, from the same table.
    `mask_starts`: a document's first token has none before it (the records let the one of the last document stand).
    Goes before the first norm. Parameter Golf #65, #162, #164. Adds nothing at the start, as U (or P) is zero.
    """

    roles = {"scale": "scale"}
    identity_at_init = True

    def __init__(
        self,
        at: Place,
        /,
        *,
        rows: int,
        width: int,
        hash: Spec[Hash] = part(XorHash),
        scale: float | None = 0.05,
        table: Spec[Init] = part(Zeros),
        project: Spec[Linear] = part(Linear),
        trigrams: bool = False,
        mask_starts: bool = False,
    ) -> None:
        super().__init__()
        if rows < 2 or width < 1:
            raise RecipeError(f"a table of {rows} rows of width {width} holds no bigrams", place="HashedBigrams")
        self.rows, self.order, self.mask_starts = rows, 3 if trigrams else 2, mask_starts
        self.hash = hash()
        self.table = Embedding(at._replace(vocab=rows, dim=width), init=table)
        self.project = project(at.matrix(width, at.dim, name="bigram"))
        self.scale = None if scale is None else nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor, bus: Bus) -> Tensor:
        ids = self.tokens(bus)
        slots = [self.hash.slots(ids[:n], self.rows) for n in range(2, self.order + 1)]
        y = self.project(self.table(torch.stack(slots)).sum(0)).to(x.dtype)
        return x + (y if self.scale is None else self.scale * y)

    def tokens(self, bus: Bus) -> list[Tensor]:
        """The tokens at hand, those one before, … (each (B, T)), -1 where there is none."""
        ids = [bus.ids]
        for n in range(1, self.order):
            earlier = bus.earlier_ids(n)
            if self.mask_starts:
                earlier = earlier.masked_fill((ids[-1] == bus.bos) | (ids[-1] < 0), -1)
            ids.append(earlier)
        return ids
