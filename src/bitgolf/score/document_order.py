"""The order in which the documents of a text are scored, and the bits that it costs.

Corpus order and a seeded shuffle reveal nothing about the text. An order by length does: a decoder must know all
lengths before the first token. So the size of a code for the lengths is added to the score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitgolf.config.ranges import Seed
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.score.length_code import Lengths, encode_lengths
from bitgolf.score.text import TokenizedText, append_final_bos


class DocumentOrder:
    """An order of documents. `name` identifies it in results and on the command line."""

    name: str

    def permutation(self, lengths: Lengths) -> Sequence[int]:
        """Indices of the documents in scoring order. lengths: in targets, in corpus order."""
        raise NotImplementedError

    def side_bits(self, lengths: Lengths) -> int:
        """Bits of the side information that a decoder needs to reproduce the order."""
        return 0

    def apply(self, text: TokenizedText) -> tuple[TokenizedText, int]:
        """The text in this order, and the bits charged for the order.

        Raises `BitgolfError` if the text is empty, or does not begin and end at the border of a document.
        """
        if not text.num_targets or text.tokens[0] != text.bos or text.tokens[-1] != text.bos:
            ends = text.tokens[[0, -1]].tolist() if len(text.tokens) else []
            cause = f"cannot reorder the documents of a text that is empty or cut: its first and last token are {ends}"
            raise BitgolfError(cause, where="score", hint=f"begin and end the text with BOS (token {text.bos})")
        documents = text.documents()
        lengths = np.array([stop - start for start, stop in documents], np.int64)
        pieces = [text.tokens[slice(*documents[i])] for i in self.permutation(lengths)]
        return text._replace(tokens=append_final_bos(np.concatenate(pieces), text.bos)), self.side_bits(lengths)


@register
class CorpusOrder(DocumentOrder):
    """The order of the corpus."""

    name = "corpus"

    def permutation(self, lengths: Lengths) -> Sequence[int]:
        return range(len(lengths))

    def apply(self, text: TokenizedText) -> tuple[TokenizedText, int]:
        return text, 0


@register
class ShuffledOrder(DocumentOrder):
    """A random order that depends only on the seed and the number of documents."""

    name = "shuffled"

    def __init__(self, *, seed: Seed = 0) -> None:
        self.seed = seed

    def permutation(self, lengths: Lengths) -> Sequence[int]:
        keys = np.random.PCG64(self.seed).random_raw(len(lengths))  # raw draws are the same in every version of numpy
        return np.argsort(keys, kind="stable").tolist()


@register
class LongestFirstOrder(DocumentOrder):
    """The longest document first (Parameter Golf #1530 and later). Charged: the size of `encode_lengths` in bits."""

    name = "longest"

    def permutation(self, lengths: Lengths) -> Sequence[int]:
        return np.argsort(-lengths, kind="stable").tolist()

    def side_bits(self, lengths: Lengths) -> int:
        return 8 * len(encode_lengths(lengths))


def parse_order(name: str | None, seed: int | None) -> Spec[DocumentOrder] | None:
    """The order of this name, or None if `name` is None. seed: of the shuffled order, 0 by default.

    Raises `UsageError` for an unknown name, or a seed with an order that is not shuffled.
    """
    if seed is not None and name != ShuffledOrder.name:
        cause = f"--seed {seed} has no effect: it applies to --order {ShuffledOrder.name} only"
        raise UsageError(cause, hint=f"add --order {ShuffledOrder.name}, or remove --seed")
    orders: dict[str, Spec[DocumentOrder]] = {cls.name: part(cls) for cls in (CorpusOrder, LongestFirstOrder)}
    orders[ShuffledOrder.name] = part(ShuffledOrder, seed=seed or 0)
    if name is not None and name not in orders:
        raise UsageError(f"there is no order {name!r}", hint=f"--order {' or '.join(orders)}")
    return orders[name] if name else None
