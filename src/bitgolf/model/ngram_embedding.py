"""Embeddings of the last few tokens at once, from a hash table too small for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.inits import ZeroInit
from bitgolf.model.interfaces import Init, ResidualStreamPart
from bitgolf.model.linear import Embedding, Linear


class NGramHash:
    """Which row of a table stands for a few tokens in a row."""

    def bucket_ids(self, ids: Sequence[Tensor], rows: int) -> Tensor:
        """Rows in [0, rows), (B, T). `ids`: the tokens at hand, those one before, …, each (B, T); -1 where there is none."""
        raise NotImplementedError


@register
class XorNGramHash(NGramHash):
    """xor(36313 id_t, 27191 id_{t-1}, 51497 id_{t-2}) in int32 with wrap-around, modulo rows - 1: #164 ... #1512.

    The last row is for positions without all of these tokens.
    """

    factors = (36313, 27191, 51497)

    def bucket_ids(self, ids: Sequence[Tensor], rows: int) -> Tensor:
        mixed = torch.zeros_like(ids[0])
        for token, factor in zip(ids, self.factors, strict=False):
            mixed = mixed ^ (factor * token)
        wrapped = mixed.int()  # keeps the low 32 bits, as a product of int32 does
        return torch.where(ids[-1] < 0, rows - 1, wrapped % (rows - 1)).long()


@register
class MultiplicativeNGramHash(NGramHash):
    """(multiplier id_{t-1} + id_t) modulo rows, 0 for a token that is not there: #65 (92821), #162 (31)."""

    def __init__(self, *, multiplier: int = 92821) -> None:
        self.multiplier = multiplier

    def bucket_ids(self, ids: Sequence[Tensor], rows: int) -> Tensor:
        mixed = torch.zeros_like(ids[0])
        for token in reversed(ids):
            mixed = (self.multiplier * mixed + token.clamp_min(0)) % rows
        return mixed


@register
class HashedNGramEmbedding(ResidualStreamPart):
    """x + scale * P U[hash(id_t, id_{t-1})]: U (rows, width) starts as `table_init`, P (D, width) is a `Linear`.

    `scale` is a learned number, None for none; `trigrams` adds the row of the last three tokens, from the same table.
    `mask_starts`: a document's first token has none before it (the records let the one of the last document stand).
    Goes before the first norm. Parameter Golf #65, #162, #164. Adds nothing at the start, as U (or P) is zero.
    """

    roles = {"scale": "scale"}
    identity_at_init = True

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        buckets: int,
        width: int,
        hash: Spec[NGramHash] = part(XorNGramHash),
        scale: float | None = 0.05,
        table_init: Spec[Init] = part(ZeroInit),
        project: Spec[Linear] = part(Linear),
        trigrams: bool = False,
        mask_starts: bool = False,
    ) -> None:
        super().__init__()
        if buckets < 2 or width < 1:
            raise RecipeError(
                f"a table of {buckets} rows of width {width} holds no bigrams", where="HashedNGramEmbedding"
            )
        self.buckets, self.max_n, self.mask_starts = buckets, 3 if trigrams else 2, mask_starts
        self.hash = hash()
        self.table = Embedding(context._replace(vocab=buckets, dim=width), init=table_init)
        self.project = project(context.for_matrix(width, context.dim, name="bigram"))
        self.scale = None if scale is None else nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        ids = self.tokens(context)
        slots = [self.hash.bucket_ids(ids[:n], self.buckets) for n in range(2, self.max_n + 1)]
        y = self.project(self.table(torch.stack(slots)).sum(0)).to(x.dtype)
        return x + (y if self.scale is None else self.scale * y)

    def tokens(self, context: ForwardContext) -> list[Tensor]:
        """The tokens at hand, those one before, … (each (B, T)), -1 where there is none."""
        ids = [context.ids]
        for n in range(1, self.max_n):
            earlier = context.previous_ids(n)
            if self.mask_starts:
                earlier = earlier.masked_fill((ids[-1] == context.bos) | (ids[-1] < 0), -1)
            ids.append(earlier)
        return ids
