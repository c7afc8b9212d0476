"""Which characters of a text get a token of their own.

SentencePiece gives a token to each of the most frequent characters that make up a share of the text (the character
coverage), and fails if they exceed the vocabulary. With byte fallback no character needs a token, so the alphabet is
cut to half of the vocabulary instead, and the other half remains for longer pieces.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitgolf.report.findings import DataFinding

SPACE = 0x2581
"""Code point that stands for a space in SentencePiece."""
MIN_TRAINER_COVERAGE = 0.98
"""SentencePiece accepts no smaller character coverage."""
MIN_CHARACTERS = 4
"""The smallest alphabet: the space, the two line ends, which SentencePiece drops at the end of a sentence, and one more."""


@dataclass(frozen=True)
class Alphabet:
    """The characters with a token of their own.

    characters: with a space as " ", None if SentencePiece finds them itself by its character coverage; has_space:
    whether a space is one of them without being asked for. finding: that the coverage was lowered, if it was.
    """

    characters: frozenset[str] | None
    has_space: bool
    finding: DataFinding | None = None


def count_characters(sentences: Iterable[str]) -> npt.NDArray[np.int64]:
    """Return the number of occurrences of each code point, int64 (0x110000,), spaces counted as U+2581.

    Line ends at the end of a sentence are not counted; SentencePiece drops them.
    """
    text = "".join(sentence.rstrip("\r\n") for sentence in sentences)
    counts = np.bincount(np.frombuffer(text.encode("utf-32-le"), np.uint32), minlength=0x110000)
    counts[SPACE] += counts[ord(" ")]
    counts[ord(" ")] = 0
    return counts


def choose_alphabet(counts: npt.NDArray[np.int64], coverage: float, limit: int) -> Alphabet:
    """Return the characters for a vocabulary with room for `limit` tokens besides special and byte tokens.

    coverage: upper limit of the share of the text that they make up. limit: at least `MIN_CHARACTERS`.
    """
    points = np.flatnonzero(counts)
    ranked = points[np.lexsort((points, -counts[points]))]
    covering = ranked[: _covering(counts[ranked], coverage)]
    size = len(covering) + (SPACE not in covering)
    if size <= limit and coverage >= MIN_TRAINER_COVERAGE:
        return Alphabet(None, SPACE in covering)
    kept = _with_space(ranked, max(MIN_CHARACTERS, size if size <= limit else limit // 2))
    characters = frozenset(map(chr, np.where(kept == SPACE, ord(" "), kept).tolist()))
    finding = _finding(counts, covering, kept, coverage) if size > limit else None
    return Alphabet(characters, SPACE in kept and counts[SPACE] > 0, finding)


def _covering(counts: npt.NDArray[np.int64], coverage: float) -> int:
    """Return how many of the most frequent characters reach the coverage, in the float32 arithmetic of SentencePiece."""
    shares = ((np.cumsum(counts) - counts) / counts.sum()).astype(np.float32)  # of the characters before each one
    return int(np.count_nonzero(shares < np.float32(coverage)))


def _with_space(ranked: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Return the first `size` characters, the last one replaced by a space if it is not among them."""
    kept = ranked[:size]
    return kept if SPACE in kept else np.append(kept[: size - 1], SPACE)


def _finding(
    counts: npt.NDArray[np.int64], covering: npt.NDArray[np.int64], kept: npt.NDArray[np.int64], coverage: float
) -> DataFinding:
    points = np.arange(len(counts))
    sizes = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
    sizes[SPACE] = 1
    total, found = counts.sum(), np.count_nonzero(counts)
    lost = found - np.count_nonzero(counts[kept])
    share = 1 - (counts[kept] * sizes[kept]).sum() / (counts * sizes).sum()
    message = (
        f"character coverage lowered from {coverage} to {counts[kept].sum() / total:.4g}, because {len(covering):,} "
        f"characters exceed the vocabulary: {lost:,} of {found:,} characters, {100 * share:.1f} % of the sample's "
        "bytes, become byte tokens"
    )
    return DataFinding("character-coverage", "note", message)
