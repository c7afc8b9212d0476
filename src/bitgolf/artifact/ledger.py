"""The ledger: the bytes of an artifact by section, and advice on reducing an artifact that exceeds its cap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bitgolf.artifact.container import PREAMBLE, Artifact
from bitgolf.pack.byte_planes import entropy_bits
from bitgolf.pack.streams import EncodedTensor, arrays_by_section


class LedgerEntry(NamedTuple):
    """Size of one part of an artifact in bytes. `bits_per_element` is None for parts without elements."""

    name: str
    bytes: int
    elements: int
    bits_per_element: float | None
    coder: str


class CutAdvice(NamedTuple):
    """Reducing section `name` from `bytes` to `bytes_wanted` makes the artifact fit its cap.

    bits_per_element, bits_wanted: the same sizes in bits per element.
    alone: whether this reduction suffices; otherwise all advised reductions are needed together.
    """

    name: str
    bytes: int
    bytes_wanted: int
    bits_per_element: float
    bits_wanted: float
    alone: bool


class CoderReport(NamedTuple):
    """The coder of a section, and its size in bytes: coded, uncoded, and the order-0 entropy without a table."""

    name: str
    coder: str
    bytes: int
    raw_bytes: int
    entropy_bytes: int

    def __str__(self) -> str:
        excess = self.bytes - self.entropy_bytes
        percent = f" ({excess / self.entropy_bytes:+.2%})" if self.entropy_bytes else ""
        return (
            f"{self.name}: {self.coder}, {self.bytes:,} bytes (uncoded {self.raw_bytes:,}), "
            f"{excess:+,} bytes{percent} relative to the order-0 entropy"
        )


def coder_reports(
    artifact: Artifact, codes: Mapping[str, EncodedTensor], groups: Mapping[str, str]
) -> list[CoderReport]:
    """One report per section of codes, the largest first. `groups` as in `pack_tensors`.

    A size below the entropy is the gain from contexts, variance classes or repeats. A size above it is coder overhead.
    """
    found = []
    for name, arrays in arrays_by_section(codes, groups).items():
        section, symbols = artifact.sections[name], np.concatenate([array.reshape(-1) for array in arrays])
        entropy = round(entropy_bits(symbols) / 8)
        found.append(CoderReport(name, section.codec, len(section.data), section.raw_bytes, entropy))
    return sorted(found, key=lambda report: -report.bytes)


def ledger(artifact: Artifact) -> list[LedgerEntry]:
    """Entries for the preamble ("frame"), the header (recipe, meta, table of sections) and each section.

    Their bytes add up to the size of the file.
    """
    fixed = [
        LedgerEntry("frame", PREAMBLE.size, 0, None, "raw"),
        LedgerEntry("header", artifact.header_bytes, 0, None, "brotli"),
    ]
    return fixed + [
        LedgerEntry(s.name, len(s.data), s.elements, 8 * len(s.data) / s.elements if s.elements else None, s.codec)
        for s in artifact.sections.values()
    ]


def over_cap_advice(entries: Sequence[LedgerEntry], cap: int) -> list[CutAdvice]:
    """Which sections to reduce so that the entries fit a cap in bytes. The largest first; empty if they fit.

    Returns each section that suffices alone. If there is none, returns all sections, reduced in proportion to their
    size.
    """
    excess = sum(entry.bytes for entry in entries) - cap
    if excess <= 0:
        return []
    sections = sorted((e for e in entries if e.elements), key=lambda e: -e.bytes)
    alone = [_advice(e, e.bytes - excess, alone=True) for e in sections if e.bytes > excess]
    if alone:
        return alone
    total = sum(e.bytes for e in sections)
    return [_advice(e, e.bytes * max(0, total - excess) // total, alone=False) for e in sections]


def _advice(entry: LedgerEntry, wanted: int, *, alone: bool) -> CutAdvice:
    bits = 8 / entry.elements
    return CutAdvice(entry.name, entry.bytes, wanted, entry.bytes * bits, wanted * bits, alone)
