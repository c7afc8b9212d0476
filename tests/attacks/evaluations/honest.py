"""Honest evaluations of small models, the counterparts of the cheats in this folder."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache

import numpy as np

from bitgolf.score.audit.evaluation import ClaimedScore, DataView, Floats, Ints
from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer
from bitgolf.tokens.tokenizer import Tokenizer
from bitgolf.tokens.trainers import SentencePieceBPE

BETA = 4.0  # weight of the model, in counts, relative to the counts of a context
Tables = defaultdict[int, Counter[int]]  # context → counts of the tokens that followed


@lru_cache(maxsize=8)
def bigrams(training: bytes, vocab: int) -> Floats:
    """P[a, b] = p(b after a), (V, V), from counts of training tokens (int64), smoothed with the unigram distribution."""
    tokens = np.frombuffer(training, np.int64)
    counts = np.bincount(tokens[:-1] * vocab + tokens[1:], minlength=vocab * vocab).reshape(vocab, vocab)
    unigrams = (counts.sum(0) + 0.05) / (counts.sum() + 0.05 * vocab)
    return (counts + BETA * unigrams) / (counts.sum(1, keepdims=True) + BETA)


class BigramEvaluation:
    """A bigram model that does not change."""

    isolated = False

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def build(self, view: DataView) -> None:
        self.model = bigrams(view.training().tobytes(), self.tokenizer.vocab)

    def warm_up(self, view: DataView) -> None:
        pass

    def evaluate(self, view: DataView) -> ClaimedScore:
        tokens = view.tokens()
        return ClaimedScore(np.arange(len(tokens) - 1), self.charges(tokens), self.bytes(tokens))

    def charges(self, tokens: Ints) -> Floats:
        """Bits of each target, (targets,)."""
        return -np.log2(self.model[tokens[:-1], tokens[1:]])

    def bytes(self, tokens: Ints) -> int:
        return int(self.tokenizer.byte_lengths[tokens].sum())


class AdaptiveBigram(BigramEvaluation):
    """The bigram model mixed with trigram counts of the text. A target is counted after it is scored."""

    def charges(self, tokens: Ints) -> Floats:
        return np.concatenate([self.document(tokens[start : stop + 1]) for start, stop in self.memory_spans(tokens)])

    def memory_spans(self, tokens: Ints) -> list[tuple[int, int]]:
        """(start, stop) of the targets that share one table of counts: the whole text."""
        return [(0, len(tokens) - 1)]

    def document(self, tokens: Ints) -> Floats:
        return np.array(list(self.scored(tokens, defaultdict(Counter))))

    def scored(self, tokens: Ints, seen: Tables) -> Iterator[float]:
        for context, last, target in context_target_pairs(tokens):
            yield bits_of(self.mixed(seen[context], last, target))
            seen[context][target] += 1

    def mixed(self, row: Counter[int], last: int, target: int) -> float:
        """Dirichlet posterior probability of a target. It sums to one because the counts are exact."""
        return (row[target] + BETA * self.model[last, target]) / (row.total() + BETA)


class IsolatedBigram(AdaptiveBigram):
    """The same with separate counts for each document."""

    isolated = True

    def memory_spans(self, tokens: Ints) -> list[tuple[int, int]]:
        return document_spans(tokens, self.tokenizer.bos)


def context_target_pairs(tokens: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """For each target: the last two tokens as one number, the last token, and the target."""
    listed = np.asarray(tokens).tolist()
    for i in range(len(listed) - 1):
        yield (listed[i - 1] if i else 0) * 1000 + listed[i], listed[i], listed[i + 1]


def bits_of(probability: float) -> float:
    return -math.log2(probability)


def document_spans(tokens: Ints, bos: int) -> list[tuple[int, int]]:
    """(start, stop) of each document's targets."""
    starts = [0, *(np.flatnonzero(tokens[1:-1] == bos) + 1).tolist()]
    return list(zip(starts, [*starts[1:], len(tokens) - 1], strict=True))


# ---- the toy corpus --------------------------------------------------------------------------------------------------

COMMON = [
    "the",
    "a",
    "of",
    "and",
    "to",
    "in",
    "is",
    "it",
    "that",
    "was",
    "for",
    "on",
    "with",
    "as",
    "at",
    "by",
    "from",
    "this",
    "have",
    "not",
    "are",
    "but",
    "all",
    "were",
    "when",
    "we",
    "there",
    "can",
    "an",
    "Your",
    "Which",
    "Their",
    "Said",
]
TOPICS = [
    ["harbour", "vessel", "sailor", "anchor", "captain", "storm", "island", "cargo", "rope", "mast"],
    ["kernel", "memory", "thread", "compiler", "pointer", "stack", "register", "cache", "branch", "loop"],
    ["orchard", "blossom", "harvest", "ladder", "basket", "cider", "gardener", "pruning", "apple", "frost"],
    ["verdict", "witness", "lawyer", "evidence", "judge", "appeal", "sentence", "clerk", "motion", "oath"],
]


@cache
def toy_corpus() -> tuple[list[bytes], list[bytes], Tokenizer]:
    """Documents to score, documents to train on, and a tokenizer. The topic of a document determines its length."""
    random = np.random.default_rng(5)
    scored = _documents(random, [0, 1, 2, 3, 1, 0, 3, 2, 1, 3])
    training = _documents(random, [i % 4 for i in range(120)])
    plain = [document.decode().encode("ascii", "ignore") for document in training]
    return scored, training, SentencePieceTokenizer(SentencePieceBPE(vocab=330, cross_word_pieces=False).train(plain))


def _documents(random: np.random.Generator, topics: list[int]) -> list[bytes]:
    """Random documents. Each has its own frequent words, so counting helps; one is from the previous document."""
    found, own = list[bytes](), TOPICS[0][:5]
    for topic in topics:
        own = [own[-1], *random.choice(TOPICS[topic][:6], 4, replace=False)]
        words = [random.choice(own if random.random() < 0.45 else COMMON) for _ in range(30 + 9 * topic)]
        words = [word.capitalize() if random.random() < 0.15 else word for word in words]
        strange = [chr(0x1F300 + int(random.integers(500))) for _ in range(3)]  # encoded as byte tokens
        found.append(" ".join([*strange, *words]).encode())
    return found
