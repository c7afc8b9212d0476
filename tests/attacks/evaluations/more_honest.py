"""More honest evaluations, each with a property that an audit could mistake for a cheat."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache

import numpy as np

from attacks.evaluations import cross_document as cross
from attacks.evaluations import gates
from attacks.evaluations.corpora import ToyCorpus, letters_corpus, words_corpus
from attacks.evaluations.honest import AdaptiveBigram, BigramEvaluation, IsolatedBigram, SilentBigram, document_spans
from attacks.evaluations.partly import MakeEvaluation
from bitgolf.score.audit.evaluation import ClaimedScore, DataView, Floats, Ints


class ByLength(BigramEvaluation):
    """A static model of isolated documents, which are listed by length."""

    isolated = True

    def evaluate(self, view: DataView) -> ClaimedScore:
        claim = super().evaluate(view)
        spans = sorted(document_spans(view.tokens(), self.tokenizer.bos), key=lambda span: span[1] - span[0])
        positions = np.concatenate([np.arange(*span) for span in spans])
        return claim._replace(positions=positions, bits=claim.bits[positions])


class ByContent(ByLength):
    """Isolated documents that are listed by their first token."""

    def evaluate(self, view: DataView) -> ClaimedScore:
        claim, tokens = BigramEvaluation.evaluate(self, view), view.tokens()
        spans = sorted(document_spans(tokens, self.tokenizer.bos), key=lambda span: int(tokens[span[0] + 1]))
        positions = np.concatenate([np.arange(*span) for span in spans])
        return claim._replace(positions=positions, bits=claim.bits[positions])


class Backwards(BigramEvaluation):
    """From the last document to the first."""

    def evaluate(self, view: DataView) -> ClaimedScore:
        claim = super().evaluate(view)
        spans = document_spans(view.tokens(), self.tokenizer.bos)[::-1]
        positions = np.concatenate([np.arange(*span) for span in spans])
        return claim._replace(positions=positions, bits=claim.bits[positions])


class LearnsAfterwards(AdaptiveBigram):
    """Two more epochs on each document after it was scored."""

    def memory_spans(self, tokens: Ints) -> list[tuple[int, int]]:
        self.seen = defaultdict[int, Counter[int]](Counter)
        return document_spans(tokens, self.tokenizer.bos)

    def document(self, tokens: Ints, start: int) -> Floats:
        bits = np.array(list(self.scored(tokens, self.seen, start)))
        asked, self.asked = self.asked, frozenset()
        for _ in range(2):
            list(self.scored(tokens, self.seen))
        self.asked = asked
        return bits


class Uniform(BigramEvaluation):
    """Every token costs the same."""

    def build(self, view: DataView) -> None:
        self.model = np.full((self.tokenizer.vocab,) * 2, 1 / self.tokenizer.vocab)


class SinglePrecision(BigramEvaluation):
    """Bits are computed in float32, and the reported distributions are rounded like them."""

    def charges(self, tokens: Ints) -> Floats:
        rows = -np.log2(self.model.astype(np.float32))
        for target in self.asked:
            self.distributions[target] = rows[tokens[target]].astype(np.float64)
        return rows[tokens[:-1], tokens[1:]].astype(np.float64)


class TwoReads(AdaptiveBigram):
    """Reads the text twice, the first time only to count its tokens."""

    def evaluate(self, view: DataView) -> ClaimedScore:
        len(view.tokens())
        return super().evaluate(view)


@cache
def repeated_documents() -> ToyCorpus:
    """Every document occurs twice, so that the second half of the text costs little in an evaluation that adapts."""
    corpus = letters_corpus()
    return corpus._replace(scored=[*corpus.scored[:6], *corpus.scored[:6]])


@cache
def easy_documents() -> ToyCorpus:
    """Some documents repeat one word, others are random letters."""
    corpus = letters_corpus()
    random = np.random.default_rng(1)
    letters = [random.choice(list(b"abcdefghijklmno"), 60).astype(np.uint8).tobytes() for _ in range(3)]
    return corpus._replace(scored=[b"abc " * 30, *corpus.scored[:4], *letters, b"no on " * 20, *corpus.scored[4:7]])


@cache
def unequal_documents() -> ToyCorpus:
    """One long document and many short ones."""
    corpus = letters_corpus()
    return corpus._replace(scored=[b" ".join(corpus.scored[:6]), *[d[:9] for d in corpus.scored]])


@cache
def bytes_beyond_letters() -> ToyCorpus:
    """Capitals, digits and other characters, which take two tokens for a byte."""
    corpus = letters_corpus()
    return corpus._replace(scored=[d.title() + " 12 Å".encode() for d in corpus.scored[:6]])


HONEST: dict[str, tuple[MakeEvaluation, Callable[[], ToyCorpus]]] = {
    "listed by length": (ByLength, letters_corpus),
    "listed by content": (ByContent, letters_corpus),
    "last document first": (Backwards, letters_corpus),
    "learns after scoring": (LearnsAfterwards, letters_corpus),
    "uniform": (Uniform, letters_corpus),
    "single precision": (SinglePrecision, letters_corpus),
    "reads twice": (TwoReads, letters_corpus),
    "shuffled documents": (cross.ShuffledDocuments, letters_corpus),
    "lengths that are paid": (cross.PaidLengths, letters_corpus),
    "rows side by side": (cross.SeparateRows, letters_corpus),
    "gate by the previous window": (gates.PreviousWindowGate, letters_corpus),
    "repeated documents": (AdaptiveBigram, repeated_documents),
    "repeated documents, isolated": (IsolatedBigram, repeated_documents),
    "easy documents": (AdaptiveBigram, easy_documents),
    "easy documents, static": (BigramEvaluation, easy_documents),
    "unequal documents": (IsolatedBigram, unequal_documents),
    "unequal documents, across": (SilentBigram, unequal_documents),
    "bytes beyond letters": (AdaptiveBigram, bytes_beyond_letters),
    "English words": (AdaptiveBigram, words_corpus),
    "English words, isolated": (IsolatedBigram, words_corpus),
}
