"""Embeddings of earlier tokens: n-grams hashed to the rows of a small table, and a table by the previous token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import Buckets, Count, Finite, Width
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.inits import ZeroInit
from bitgolf.model.interfaces import Init, ResidualStreamPart, WeightTransform
from bitgolf.model.linear import Embedding, Linear


class NGramHash:
    """Hash function from n-grams of token ids to the rows of a table."""

    def bucket_ids(self, ids: Sequence[Tensor], rows: int) -> Tensor:
        """Row indices in [0, rows), (B, T). `ids`: current tokens, previous ones, …, each (B, T); -1 if missing."""
        raise NotImplementedError


@register
class XorNGramHash(NGramHash):
    """xor(36313 id_t, 27191 id_{t-1}, 51497 id_{t-2}) in int32 with wrap-around, modulo rows - 1.

    The last row is used where a token of the n-gram is missing. Parameter Golf #164 to #1512.
    """

    factors = (36313, 27191, 51497)

    def bucket_ids(self, ids: Sequence[Tensor], rows: int) -> Tensor:
        mixed = torch.zeros_like(ids[0])
        for token, factor in zip(ids, self.factors, strict=False):
            mixed = mixed ^ (factor * token)
        wrapped = mixed.int()  # keeps the low 32 bits, like a product in int32
        return torch.where(ids[-1] < 0, rows - 1, wrapped % (rows - 1)).long()


@register
class MultiplicativeNGramHash(NGramHash):
    """(multiplier * id_{t-1} + id_t) modulo rows, with 0 for a missing token: Parameter Golf #65 (92821), #162 (31)."""

    def __init__(self, *, multiplier: Count = 92821) -> None:
        self.multiplier = multiplier

    def bucket_ids(self, ids: Sequence[Tensor], rows: int) -> Tensor:
        mixed = torch.zeros_like(ids[0])
        for token in reversed(ids):
            mixed = (self.multiplier * mixed + token.clamp_min(0)) % rows
        return mixed


@register
class HashedNGramEmbedding(ResidualStreamPart):
    """x + scale * P U[hash(id_t, id_{t-1})] with a hash table U (buckets, width) and a projection P (D, width).

    scale: initial value of a learned scalar, or None for no scale.  table_init: initializer of U.  project: the
    `Linear` P.  trigrams: also add the row of the last three tokens, from the same table.  mask_starts: n-grams do not
    extend over a document start; in the published records they do.  weight_transforms: of U, for example fake
    quantization; those of P are settings of `project`.

    Initially the output is x, since U (or P) is zero. Place it before the first norm. Parameter Golf #65, #162, #164.
    Raises `RecipeError` if `buckets` is below 2 or `width` below 1.
    """

    roles = {"scale": "scale"}
    identity_at_init = True

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        buckets: Buckets,
        width: Width,
        hash: Spec[NGramHash] = part(XorNGramHash),
        scale: Finite | None = 0.05,
        table_init: Spec[Init] = part(ZeroInit),
        project: Spec[Linear] = part(Linear),
        trigrams: bool = False,
        mask_starts: bool = False,
        weight_transforms: tuple[Spec[WeightTransform], ...] = (),
    ) -> None:
        super().__init__()
        if buckets < 2 or width < 1:
            message = f"buckets must be at least 2 and width at least 1, got {buckets} and {width}"
            raise RecipeError(message, where="HashedNGramEmbedding")
        self.buckets, self.max_n, self.mask_starts = buckets, 3 if trigrams else 2, mask_starts
        self.hash = hash()
        at = context._replace(vocab=buckets, dim=width)
        self.table = Embedding(at, init=table_init, weight_transforms=weight_transforms)
        self.project = project(context.for_matrix(width, context.dim, name="bigram"))
        self.scale = None if scale is None else nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        y = self.project(self.table(self.rows(context)).sum(0)).to(x.dtype)
        return x + (y if self.scale is None else self.scale * y)

    def lookups(self, context: ForwardContext) -> tuple[tuple[Embedding, Tensor], ...]:
        return ((self.table, self.rows(context)),)

    def rows(self, context: ForwardContext) -> Tensor:
        """Rows of the table, (N, B, T): those of the bigrams, and of the trigrams if there are any."""
        ids = self.tokens(context)
        return torch.stack([self.hash.bucket_ids(ids[:n], self.buckets) for n in range(2, self.max_n + 1)])

    def tokens(self, context: ForwardContext) -> list[Tensor]:
        """Current tokens, previous tokens, …, each (B, T); -1 where missing."""
        ids = [context.ids]
        for n in range(1, self.max_n):
            earlier = context.previous_ids(n)
            if self.mask_starts:
                earlier = earlier.masked_fill((ids[-1] == context.bos) | (ids[-1] < 0), -1)
            ids.append(earlier)
        return ids


@register
class PreviousTokenEmbedding(ResidualStreamPart):
    """x_t + U[id_{t-1}] with a table U (V, D), initialized to zero; id 0 stands for a missing token.

    table_init: initializer of U.  weight_transforms: those of U.  mask_starts: the first token of a document has no
    previous token; in the script it has the last one of the document before.
    Parameter Golf #640 (its `BIGRAM_HASH`), before the expansion of a factored embedding: `FactoredEmbedding.pre_expand`.
    There, Muon trains U.
    """

    identity_at_init = True

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        table_init: Spec[Init] = part(ZeroInit),
        weight_transforms: tuple[Spec[WeightTransform], ...] = (),
        mask_starts: bool = True,
    ) -> None:
        super().__init__()
        self.mask_starts = mask_starts
        self.table = Embedding(context, init=table_init, weight_transforms=weight_transforms)

    def lookups(self, context: ForwardContext) -> tuple[tuple[Embedding, Tensor], ...]:
        return ((self.table, self._previous(context)),)

    def _previous(self, context: ForwardContext) -> Tensor:
        """Ids of the previous tokens, 0 where there is none: (B, T)."""
        previous = context.previous_ids(1)
        if self.mask_starts:
            previous = previous.masked_fill(context.document_starts, -1)
        return previous.clamp_min(0)

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        return x + self.table(self._previous(context)).to(x.dtype)
