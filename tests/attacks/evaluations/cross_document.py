"""Cheats in which documents affect one another although declared isolated, or later lengths are used."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from attacks.evaluations.honest import (
    AdaptiveBigram,
    IsolatedBigram,
    Tables,
    bits_of,
    context_target_pairs,
    document_spans,
)
from bitgolf.score.audit.evaluation import ClaimedScore, DataView, Floats, Ints
from bitgolf.score.document_order import LongestFirstOrder

LEAD, ROWS = 96, 5


class ContextBeforeDocument(IsolatedBigram):
    """The counts of a document also include the stream tokens before it."""

    def charges(self, tokens: Ints) -> Floats:
        found = list[Floats]()
        for start, stop in self.memory_spans(tokens):
            lead = min(start, LEAD)
            found.append(self.document(tokens[start - lead : stop + 1], start - lead)[lead:])
        return np.concatenate(found)


class MemoryNotReset(IsolatedBigram):
    """Declares documents isolated, but keeps one table of counts for all of them."""

    def memory_spans(self, tokens: Ints) -> list[tuple[int, int]]:
        return [(0, len(tokens) - 1)]


class SharedRows(IsolatedBigram):
    """Scores five documents side by side, one target of each in turn, with one table of counts for the batch."""

    def charges(self, tokens: Ints) -> Floats:
        documents, bits = self.memory_spans(tokens), np.zeros(len(tokens) - 1)
        for i in range(0, len(documents), ROWS):
            self.batch(tokens, documents[i : i + ROWS], bits)
        return bits

    def batch(self, tokens: Ints, rows: Sequence[tuple[int, int]], bits: Floats) -> None:
        tables = self.tables(len(rows))
        plans = [list(context_target_pairs(tokens[start : stop + 1])) for start, stop in rows]
        for i in range(max(map(len, plans))):
            for (start, _), plan, seen in zip(rows, plans, tables, strict=True):
                if i < len(plan):
                    context, last, target = plan[i]
                    if start + i in self.asked:
                        row = [self.mixed(seen[context], last, y) for y in range(self.tokenizer.vocab)]
                        self.distributions[start + i] = -np.log2(row)
                    bits[start + i] = bits_of(self.mixed(seen[context], last, target))
                    seen[context][target] += 1

    def tables(self, rows: int) -> list[Tables]:
        """The table of counts of each row."""
        return [defaultdict(Counter)] * rows


class SeparateRows(SharedRows):
    """Honest: a table for each row. Documents are listed in the order of their lengths, as they are batched."""

    def tables(self, rows: int) -> list[Tables]:
        return [defaultdict(Counter) for _ in range(rows)]

    def evaluate(self, view: DataView) -> ClaimedScore:
        claim = super().evaluate(view)
        spans = sorted(document_spans(view.tokens(), self.tokenizer.bos), key=lambda span: span[0] - span[1])
        positions = np.concatenate([np.arange(*span) for span in spans])
        return claim._replace(positions=positions, bits=claim.bits[positions])


class PreviousDocumentMemory(AdaptiveBigram):
    """Honest: counts of the previous and the current document, in corpus order."""

    def evaluate(self, view: DataView) -> ClaimedScore:
        self.asked = view.distribution_targets
        tokens, before = view.tokens(), defaultdict[int, Counter[int]](Counter)
        positions, bits = list[int](), list[float]()
        for start, stop in self.order(document_spans(tokens, self.tokenizer.bos)):
            memory = defaultdict(Counter, {context: Counter(row) for context, row in before.items()})
            bits += self.scored(tokens[start : stop + 1], memory, start)
            positions += range(start, stop)
            before = defaultdict[int, Counter[int]](Counter)
            for context, _, target in context_target_pairs(tokens[start : stop + 1]):
                before[context][target] += 1
        lengths = [stop - start for start, stop in document_spans(tokens, self.tokenizer.bos)]
        side_bits = self.side_bits(np.array(lengths, np.int64))
        return ClaimedScore(np.array(positions), np.array(bits), self.bytes(tokens), side_bits, self.distributions)

    def order(self, documents: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return documents

    def side_bits(self, lengths: Ints) -> float:
        return 0.0


class SortedByLength(PreviousDocumentMemory):
    """Scores the documents by length, longest first, although a decoder does not know the lengths."""

    def order(self, documents: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return sorted(documents, key=lambda span: span[0] - span[1])


class PaidLengths(SortedByLength):
    """Honest: the same order, with bits for the lengths."""

    def side_bits(self, lengths: Ints) -> float:
        return float(LongestFirstOrder().side_bits(lengths))


class ShuffledDocuments(PreviousDocumentMemory):
    """Honest: an order that depends on the number of documents only."""

    def order(self, documents: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [documents[i] for i in np.random.default_rng(len(documents)).permutation(len(documents))]


class FirstHalfByLength(SortedByLength):
    """Only the first half of the documents is sorted by length."""

    def order(self, documents: list[tuple[int, int]]) -> list[tuple[int, int]]:
        half = len(documents) // 2
        return [*super().order(documents[:half]), *documents[half:]]
