"""The texts of the suite: English words with a SentencePiece tokenizer, and a few letters with a small vocabulary.

A small vocabulary makes audits fast, as every token can be tried at a target. Errors in counting bytes need the other.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer
from bitgolf.tokens.trainers import SentencePieceBPE

LETTERS = b" abcdefghijklmno"
Ids = npt.NDArray[np.int64]


class ToyCorpus(NamedTuple):
    """Documents to score, documents to train on, and their tokenizer."""

    scored: list[bytes]
    training: list[bytes]
    tokenizer: Any


class LetterTokenizer:
    """One token for BOS, one for each of `LETTERS`, and 16 tokens of half a byte, two of which encode any other byte."""

    bos, vocab = 0, 1 + len(LETTERS) + 16
    byte_lengths = np.array([0.0, *[1.0] * len(LETTERS), *[0.5] * 16])

    def __init__(self) -> None:
        high, low = np.divmod(np.arange(256), 16)
        half = 1 + len(LETTERS)
        self._table = np.stack([half + high, half + low], 1)
        for i, letter in enumerate(LETTERS):
            self._table[letter] = [1 + i, -1]

    def encode(self, data: bytes, /) -> Ids:
        pairs = self._table[np.frombuffer(data, np.uint8)].reshape(-1)
        return pairs[pairs >= 0]

    def decode(self, ids: npt.NDArray[np.integer[Any]], /) -> bytes:
        result, half = bytearray(), list[int]()
        for token in np.asarray(ids).tolist():
            if token <= len(LETTERS):
                result += LETTERS[token - 1 : token]
                continue
            half.append(token - 1 - len(LETTERS))
            if len(half) == 2:
                result.append(16 * half[0] + half[1])
                half.clear()
        return bytes(result)


@cache
def letters_corpus(scored: int = 10, words: int = 14) -> ToyCorpus:
    """Documents of a few random words that repeat. The tokens of the text are about 70 times the documents."""
    random = np.random.default_rng(7)
    lexicon = [random.choice(list(LETTERS[1:]), random.integers(2, 7)).astype(np.uint8).tobytes() for _ in range(120)]
    chances = 1 / np.arange(2, 122)

    def document(length: int) -> bytes:
        own = random.choice(120, 5)
        chosen = [
            random.choice(own) if random.random() < 0.4 else random.choice(120, p=chances / chances.sum())
            for _ in range(length)
        ]
        return b" ".join(lexicon[i] for i in chosen)

    text = [document(words + int(random.integers(-5, 6))) for _ in range(scored)]
    return ToyCorpus(text, [document(20) for _ in range(100)], LetterTokenizer())


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
    line.split()
    for line in (
        "harbour vessel sailor anchor captain storm island cargo rope mast",
        "kernel memory thread compiler pointer stack register cache branch loop",
        "orchard blossom harvest ladder basket cider gardener pruning apple frost",
        "verdict witness lawyer evidence judge appeal sentence clerk motion oath",
    )
]


@cache
def words_corpus() -> ToyCorpus:
    """Documents of English words. The topic of a document determines its length."""
    random = np.random.default_rng(5)
    scored = _documents(random, [0, 1, 2, 3, 1, 0, 3, 2, 1, 3])
    training = _documents(random, [i % 4 for i in range(120)])
    plain = [document.decode().encode("ascii", "ignore") for document in training]
    serialized = SentencePieceBPE(vocab=330, cross_word_pieces=False).train(plain)
    return ToyCorpus(scored, training, SentencePieceTokenizer(serialized))


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


@cache
def typographic_corpus() -> ToyCorpus:
    """English words with characters that normalization replaces."""
    corpus = words_corpus()
    return corpus._replace(scored=[document + " \ufb01ve ½".encode() for document in corpus.scored])
