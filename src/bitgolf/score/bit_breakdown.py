"""Where the bits of a score go: sums by kind of token, position in the document, length of the document, and word frequency.

A token with a letter belongs to a word. Tokens of one word follow each other without white space or punctuation between
them, and words are equal if their tokens are. Every row of tables sums targets, so each table sums to the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from bitgolf.runtime.distributed import DistributedContext, all_reduce_sum
from bitgolf.score.result import BitBreakdown, BitsRow
from bitgolf.score.text import TokenizedText
from bitgolf.text.caseops import OPERATORS
from bitgolf.tokens.tokenizer import Tokenizer

Charges = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

KINDS = (
    "whole word", "first piece of a word", "later piece of a word", "digits", "punctuation", "white space",
    "case operator", "byte", "end of document",
)  # fmt: skip
"""Kinds of tokens. byte: part of a character that has no token of its own."""
WHOLE, FIRST, LATER, DIGITS, PUNCTUATION, SPACE, OPERATOR, BYTE, END = range(len(KINDS))
FREQUENCIES = ("once", "2 to 9 times", "10 to 99 times", "100 to 999 times", "1,000 times and more", "no word")
"""Classes of words by how often they occur in the scored text."""
RESOLUTION = 2.0**20
"""Units of a bit in which sums are computed: sums of integers do not depend on the number of processes."""
SHORTEST, LONGEST = 4, 16
"""Positions and lengths are in classes by powers of two: below 2^SHORTEST, …, from 2^LONGEST on."""


class _PieceTable(NamedTuple):
    """What is known of each token without its context: kind (vocab,), and whether it begins and ends within a word."""

    kind: Integers
    begins: Flags
    ends: Flags


def zero_charges(text: TokenizedText, tokenizer: Tokenizer | None) -> Charges | None:
    """A charge of 0 for each target, float64 (targets,), to be filled while scoring; None without a tokenizer."""
    return np.zeros(text.num_targets) if tokenizer else None


def bit_breakdown(
    text: TokenizedText, charges: Charges | None, tokenizer: Tokenizer | None, distributed: DistributedContext
) -> BitBreakdown | None:
    """Sum the charges of a text by classes of its targets; None without charges or tokenizer.

    charges: (targets,), in bits; 0 for targets that another process has scored.
    """
    if charges is None or tokenizer is None:
        return None
    targets, pieces = text.tokens[1:], _piece_table(tokenizer)
    joined = _joined(targets, pieces)
    words = pieces.kind[targets] == WHOLE
    position, length = _places(text)
    sizes = tokenizer.count_bytes(targets)
    units = np.rint(charges * RESOLUTION)
    tables = [
        (KINDS, _kinds(targets, pieces, joined)),
        (_power_names(), _power_class(position)),
        (_power_names(), _power_class(length)),
        (FREQUENCIES, _frequency_class(targets, words, joined)),
    ]
    return BitBreakdown(*(_rows(names, classes, sizes, units, distributed) for names, classes in tables))


def _rows(
    names: Sequence[str],
    classes: Integers,
    sizes: Integers,
    units: Charges,
    distributed: DistributedContext,
) -> list[BitsRow]:
    """The sums of each class that has targets."""
    counts = np.bincount(classes, minlength=len(names))
    size = np.bincount(classes, sizes, len(names))
    own = torch.from_numpy(np.bincount(classes, units, len(names))).to(distributed.device)
    bits = all_reduce_sum(own, distributed).cpu().numpy() / RESOLUTION
    return [BitsRow(names[i], int(counts[i]), int(size[i]), float(bits[i])) for i in np.flatnonzero(counts).tolist()]


def _piece_table(tokenizer: Tokenizer) -> _PieceTable:
    kinds = [END if b else _kind(p) for p, b in zip(tokenizer.piece_bytes, tokenizer.is_boundary, strict=True)]
    texts = [piece.decode(errors="replace") for piece in tokenizer.piece_bytes]
    begins, ends = ([text[i].isalnum() if text else False for text in texts] for i in (0, -1))
    return _PieceTable(np.array(kinds), np.array(begins), np.array(ends))


def _kind(piece: bytes) -> int:
    """The kind of a token; `WHOLE` for any that belongs to a word."""
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return BYTE
    if any(character.isalpha() for character in text):
        return WHOLE
    if any(character.isnumeric() for character in text):
        return DIGITS
    if piece.strip() in OPERATORS:
        return OPERATOR
    return PUNCTUATION if text.strip() else SPACE


def _joined(targets: Integers, pieces: _PieceTable) -> Flags:
    """Whether each target continues the word of the target before it, bool (targets + 1,); False after the last."""
    word = pieces.kind[targets] == WHOLE
    joined = np.zeros(len(targets) + 1, np.bool_)
    joined[1:-1] = word[:-1] & word[1:] & pieces.ends[targets[:-1]] & pieces.begins[targets[1:]]
    return joined


def _kinds(targets: Integers, pieces: _PieceTable, joined: Flags) -> Integers:
    kinds = pieces.kind[targets]
    word = kinds == WHOLE
    kinds[word & joined[1:]] = FIRST
    kinds[word & joined[:-1]] = LATER
    return kinds


def _places(text: TokenizedText) -> tuple[Integers, Integers]:
    """Targets before each target in its document, and targets of its document."""
    spans = np.array(text.documents(), np.int64).reshape(-1, 2)
    lengths = spans[:, 1] - spans[:, 0]
    position = np.arange(text.num_targets) - np.repeat(spans[:, 0], lengths)
    return position, np.repeat(lengths, lengths)


def _power_class(values: Integers) -> Integers:
    """The class of each value: 0 below 2^SHORTEST, one more for each doubling."""
    exponent = np.frexp(values.astype(np.float64))[1].astype(np.int64)  # 2^(exponent - 1) <= value
    return np.clip(exponent - SHORTEST, 0, LONGEST - SHORTEST + 1)


def _power_names() -> list[str]:
    edges = [2**i for i in range(SHORTEST, LONGEST + 1)]
    between = [f"{low:,} to {high - 1:,}" for low, high in pairwise(edges)]
    return [f"0 to {edges[0] - 1}", *between, f"{edges[-1]:,} and more"]


def _frequency_class(targets: Integers, words: Flags, joined: Flags) -> Integers:
    """The class of each target's word by the number of its occurrences, found by a hash of its tokens."""
    classes = np.full(len(targets), len(FREQUENCIES) - 1)
    places = np.flatnonzero(words)
    if not len(places):
        return classes
    first = ~joined[:-1][places]
    starts = np.flatnonzero(first)
    number = np.cumsum(first) - 1
    offset = np.arange(len(places)) - starts[number]
    _, inverse, counts = np.unique(
        np.add.reduceat(_mixed(targets[places], offset), starts), return_inverse=True, return_counts=True
    )
    occurrences = counts[inverse][number]
    classes[places] = np.searchsorted([2, 10, 100, 1000], occurrences, side="right")
    return classes


def _mixed(tokens: Integers, offsets: Integers) -> npt.NDArray[np.uint64]:
    """A hash of each token at its offset in a word, whose sum over a word identifies the word (splitmix64)."""
    x = tokens.astype(np.uint64) * np.uint64(0x1_0000_0001) + offsets.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))
