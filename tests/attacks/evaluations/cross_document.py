"""Cheats in which documents affect one another although declared isolated, or later lengths are used."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from attacks.evaluations.honest import AdaptiveBigram, IsolatedBigram, bits_of, context_target_pairs, document_spans
from bitgolf.score.audit.evaluation import ClaimedScore, DataView, Floats, Ints

LEAD, ROWS = 96, 5


class ContextBeforeDocument(IsolatedBigram):
    """The counts of a document also include the stream tokens before it."""

    def charges(self, tokens: Ints) -> Floats:
        found = list[Floats]()
        for start, stop in self.memory_spans(tokens):
            lead = min(start, LEAD)
            found.append(self.document(tokens[start - lead : stop + 1])[lead:])
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
        seen = defaultdict[int, Counter[int]](Counter)
        plans = [list(context_target_pairs(tokens[start : stop + 1])) for start, stop in rows]
        for i in range(max(map(len, plans))):
            for (start, _), plan in zip(rows, plans, strict=True):
                if i < len(plan):
                    context, last, target = plan[i]
                    bits[start + i] = bits_of(self.mixed(seen[context], last, target))
                    seen[context][target] += 1


class PreviousDocumentMemory(AdaptiveBigram):
    """Honest: counts of the previous and the current document, in corpus order."""

    def evaluate(self, view: DataView) -> ClaimedScore:
        tokens, before = view.tokens(), defaultdict[int, Counter[int]](Counter)
        positions, bits = list[int](), list[float]()
        for start, stop in self.order(document_spans(tokens, self.tokenizer.bos)):
            memory = defaultdict(Counter, {context: Counter(row) for context, row in before.items()})
            bits += self.scored(tokens[start : stop + 1], memory)
            positions += range(start, stop)
            before = defaultdict[int, Counter[int]](Counter)
            for context, _, target in context_target_pairs(tokens[start : stop + 1]):
                before[context][target] += 1
        return ClaimedScore(np.array(positions), np.array(bits), self.bytes(tokens))

    def order(self, documents: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return documents


class SortedByLength(PreviousDocumentMemory):
    """Scores the documents by length, longest first, although a decoder does not know the lengths."""

    def order(self, documents: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return sorted(documents, key=lambda span: span[0] - span[1])
