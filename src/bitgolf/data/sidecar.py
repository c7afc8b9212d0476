"""Byte sidecars of published shards: files that state the number of bytes of each token.

A sidecar has the format of a shard, with a number of bytes in place of each token. Its rule is that of
openai/parameter-golf, pull request 1729: case operators count 0, a character counts on its last byte token, and bytes
that the normaliser of the encoder removed count too. A score must not depend on a file that anyone can change, so
sidecars are compared with our own counts and never used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bitgolf.data.shards import Positions, TokenStream, sidecar_name
from bitgolf.errors import CorruptFileError
from bitgolf.tokens.tokenizer import Tokenizer

_BLOCK_TOKENS = 1 << 22


class SidecarComparison(NamedTuple):
    """Bytes of the same tokens, by the sidecars and by our own counts.

    tokens: number of tokens. differing: tokens whose counts differ; differing_byte_tokens: those of them that stand for a
    single byte; differing_documents: documents whose sums differ.
    """

    sidecar_bytes: int
    own_bytes: int
    tokens: int
    differing: int
    differing_byte_tokens: int
    differing_documents: int

    def explanation(self) -> str:
        """One sentence for the user on what both count, and why."""
        if not self.differing:
            return f"the byte sidecar agrees with the tokens: {self.own_bytes:,} bytes"
        others = self.differing - self.differing_byte_tokens
        reasons = [
            f"{self.differing_byte_tokens:,} are byte tokens (the sidecar counts a character on its last one)"
        ] * (self.differing_byte_tokens > 0)
        reasons += [f"{others:,} are other tokens (the sidecar counts text that its encoder removed or changed)"] * (
            others > 0
        )
        return (
            f"the byte sidecar counts {self.sidecar_bytes:,} bytes, the tokens decode to {self.own_bytes:,}:"
            f" {self.differing:,} of {self.tokens:,} tokens differ, of which {' and '.join(reasons)};"
            f" documents with another sum: {self.differing_documents:,}. Scores use the {self.own_bytes:,} bytes"
        )


def compare_sidecars(
    shards: Sequence[Path], sidecars: Sequence[Path], starts: Positions, tokenizer: Tokenizer
) -> SidecarComparison:
    """Compare the sidecars of a split with `tokenizer.count_bytes`, token by token.

    starts: positions of BOS in the stream of the shards. Raises `CorruptFileError` if a shard has no sidecar, a sidecar
    has no shard, or their lengths differ, and the errors of `read_shard`.
    """
    matched = _matched(shards, sidecars)
    tokens, stated = TokenStream(shards), TokenStream(matched)
    for path, count, entries in zip(matched, tokens.shard_sizes.tolist(), stated.shard_sizes.tolist(), strict=True):
        if entries != count:
            cause = f"the byte sidecar has {entries:,} entries for {count:,} tokens"
            raise CorruptFileError(cause, where=str(path), hint="download both files again, or remove the sidecar")
    total = SidecarComparison(0, 0, len(tokens), 0, 0, 0)
    for first, last in document_blocks(starts, len(tokens), _BLOCK_TOKENS):
        ids = tokens.window(first, last - first)
        own, other = tokenizer.count_bytes(ids), stated.window(first, last - first)
        differ = own != other
        inside = starts[np.searchsorted(starts, first) : np.searchsorted(starts, last)] - first
        sums = np.add.reduceat(own - other, np.union1d(inside, [0]))
        counts = other.sum(), own.sum(), 0, differ.sum(), (differ & tokenizer.is_byte[ids]).sum(), (sums != 0).sum()
        total = SidecarComparison(*(a + int(b) for a, b in zip(total, counts, strict=True)))
    return total


def _matched(shards: Sequence[Path], sidecars: Sequence[Path]) -> list[Path]:
    """Return the sidecar of each shard. Raises `CorruptFileError` if there is not exactly one for each."""
    expected = [shard.with_name(sidecar_name(shard.name)) for shard in shards]
    for path in sorted({*expected} ^ {*sidecars}):
        cause = "the byte sidecar is missing" if path in expected else "the byte sidecar has no shard of tokens"
        raise CorruptFileError(cause, where=str(path), hint="download the missing file, or remove all byte sidecars")
    return expected


def document_blocks(starts: Positions, tokens: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) of blocks of at least `size` tokens that end at document starts; they cover the stream."""
    wanted = np.searchsorted(starts, np.arange(size, tokens, size))
    yield from pairwise([0, *np.unique(starts[wanted[wanted < len(starts)]]).tolist(), tokens])
