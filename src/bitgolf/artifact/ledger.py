"""The ledger: where every byte of an artifact went, and what to cut when it is over its cap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bitgolf.artifact.container import PREAMBLE, Artifact
from bitgolf.pack.byte_planes import entropy_bits
from bitgolf.pack.streams import EncodedTensor, arrays_by_section


class LedgerEntry(NamedTuple):
    """`bits_per_element` is None where there are no elements (frame and header)."""

    name: str
    bytes: int
    elements: int
    bits_per_element: float | None
    coder: str


class CutAdvice(NamedTuple):
    """Bring `name` down from `bytes` to `bytes_wanted` (in bits per element likewise) and the artifact fits its cap.

    `alone`: this one cut is enough; otherwise all the advice has to be followed together.
    """

    name: str
    bytes: int
    bytes_wanted: int
    bits_per_element: float
    bits_wanted: float
    alone: bool


class CoderReport(NamedTuple):
    """The coder of a section, its bytes, and those of the bare symbols and of their order-0 entropy, table excluded."""

    name: str
    coder: str
    bytes: int
    raw_bytes: int
    entropy_bytes: int

    def __str__(self) -> str:
        over = self.bytes - self.entropy_bytes
        share = f" ({over / self.entropy_bytes:+.2%})" if self.entropy_bytes else ""
        return (
            f"{self.name}: {self.coder}, {self.bytes:,} bytes of {self.raw_bytes:,}, "
            f"{over:+,}{share} against the order-0 entropy"
        )


def coder_reports(
    artifact: Artifact, codes: Mapping[str, EncodedTensor], groups: Mapping[str, str]
) -> list[CoderReport]:
    """What was chosen for each section of codes, and what it saved; largest first. `groups` as in `pack_tensors`.

    Below the entropy is what contexts, spreads or repeats were worth; above it, what the coder wastes.
    """
    found = []
    for name, arrays in arrays_by_section(codes, groups).items():
        section, symbols = artifact.sections[name], np.concatenate([array.reshape(-1) for array in arrays])
        entropy = round(entropy_bits(symbols) / 8)
        found.append(CoderReport(name, section.codec, len(section.data), section.raw_bytes, entropy))
    return sorted(found, key=lambda choice: -choice.bytes)


def ledger(artifact: Artifact) -> list[LedgerEntry]:
    """Frame, header (recipe, meta and table of sections), then the sections. The bytes sum to the file's size."""
    fixed = [
        LedgerEntry("frame", PREAMBLE.size, 0, None, "raw"),
        LedgerEntry("header", artifact.header_bytes, 0, None, "brotli"),
    ]
    return fixed + [
        LedgerEntry(s.name, len(s.data), s.elements, 8 * len(s.data) / s.elements if s.elements else None, s.codec)
        for s in artifact.sections.values()
    ]


def over_cap_advice(entries: Sequence[LedgerEntry], cap: int) -> list[CutAdvice]:
    """What to cut so that the entries fit `cap` decimal bytes; largest first, and empty where they fit.

    Each entry that could make room alone, or, where none could, all sections in proportion.
    """
    excess = sum(entry.bytes for entry in entries) - cap
    if excess <= 0:
        return []
    sections = sorted((e for e in entries if e.elements), key=lambda e: -e.bytes)
    alone = [_over_cap_hint(e, e.bytes - excess, alone=True) for e in sections if e.bytes > excess]
    if alone:
        return alone
    total = sum(e.bytes for e in sections)
    return [_over_cap_hint(e, e.bytes * max(0, total - excess) // total, alone=False) for e in sections]


def _over_cap_hint(entry: LedgerEntry, wanted: int, *, alone: bool) -> CutAdvice:
    bits = 8 / entry.elements
    return CutAdvice(entry.name, entry.bytes, wanted, entry.bytes * bits, wanted * bits, alone)
