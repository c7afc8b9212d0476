"""In which order the documents of a text are scored: the referee's choice, and what it costs to know it.

Corpus order and a seeded shuffle tell a player nothing. An order by length does: to play the longest document first,
the lengths of all must be known before a token is revealed. So they are charged what a code for them takes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.score.length_code import Lengths, encode_lengths
from bitgolf.score.text import TokenizedText, append_final_bos


class DocumentOrder:
    """An order of documents. `name` is what results call it."""

    name: str

    def permutation(self, lengths: Lengths) -> Sequence[int]:
        """Which document comes first, second, …; lengths are in targets, in corpus order."""
        raise NotImplementedError

    def side_bits(self, lengths: Lengths) -> int:
        """Bits of what a decoder must be told to follow the order."""
        return 0

    def apply(self, text: TokenizedText) -> tuple[TokenizedText, int]:
        """The text in this order, and the bits that are charged for it. Raises where the text is cut within a document."""
        if not text.num_targets or text.tokens[0] != text.bos or text.tokens[-1] != text.bos:
            raise BitgolfError("documents that are cut cannot be put in another order", where="score")
        documents = text.documents()
        lengths = np.array([stop - start for start, stop in documents], np.int64)
        pieces = [text.tokens[slice(*documents[i])] for i in self.permutation(lengths)]
        return text._replace(tokens=append_final_bos(np.concatenate(pieces), text.bos)), self.side_bits(lengths)


@register
class CorpusOrder(DocumentOrder):
    """As they stand."""

    name = "corpus"

    def apply(self, text: TokenizedText) -> tuple[TokenizedText, int]:
        return text, 0


@register
class ShuffledOrder(DocumentOrder):
    """Shuffled by a generator that knows the seed and the number of documents, and nothing else."""

    name = "shuffled"

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def permutation(self, lengths: Lengths) -> Sequence[int]:
        keys = np.random.PCG64(self.seed).random_raw(len(lengths))  # raw draws: the same with every numpy
        return np.argsort(keys, kind="stable").tolist()


@register
class LongestFirstOrder(DocumentOrder):
    """The longest first (Parameter Golf #1530 and later), charged the bits of all lengths: `encode_lengths`."""

    name = "longest"

    def permutation(self, lengths: Lengths) -> Sequence[int]:
        return np.argsort(-lengths, kind="stable").tolist()

    def side_bits(self, lengths: Lengths) -> int:
        return 8 * len(encode_lengths(lengths))


def parse_order(name: str | None, seed: int | None) -> Spec[DocumentOrder] | None:
    """The order that results call so, of this seed if it has one; None for no name."""
    if seed is not None and name != ShuffledOrder.name:
        raise UsageError("a seed decides a shuffle and nothing else", hint=f"--order {ShuffledOrder.name}")
    orders: dict[str, Spec[DocumentOrder]] = {cls.name: part(cls) for cls in (CorpusOrder, LongestFirstOrder)}
    orders[ShuffledOrder.name] = part(ShuffledOrder, seed=seed or 0)
    if name is not None and name not in orders:
        raise UsageError(f"there is no order {name!r}", hint=f"--order {' or '.join(orders)}")
    return orders[name] if name else None
