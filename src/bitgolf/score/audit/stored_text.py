"""Check that no part of the text costs far less than the rest, as it does if the artifact contains it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bitgolf.score.audit.evaluation import Bools, Floats, Ints
from bitgolf.score.audit.findings import AuditFinding, error
from bitgolf.score.audit.harness import AuditHarness
from bitgolf.score.text import append_final_bos

SHORTEST = 32  # targets of the shortest part that is compared with the rest
MAX_RATIO = 0.2  # bits per target of a part, relative to the rest, below which it is called stored
MIN_MISSING_BITS = 64.0
MIN_DEVIATIONS = 5.0  # excess of targets that cost far more in another place over those that cost far less, in sigma
LONGEST_CONTEXT = 12  # tokens


class CheapPart(NamedTuple):
    """A part of the text: its targets, the bits that it lacks at the cost of the rest, and its cost relative to that."""

    targets: Ints
    missing_bits: float
    ratio: float


def check_stored_text(harness: AuditHarness, artifact_bytes: int | None) -> Iterator[AuditFinding]:
    """Compare parts of the text with the rest, and the text with the same documents in other places.

    Only targets are compared that follow from nothing else: which end the only occurrence of a few tokens in this text
    and in the training text. The last part of the text, or of the documents, may be the stored one as well as the
    first. Targets that are stored by position cost far more if their documents are moved; in an evaluation that adapts
    as many become far cheaper.
    artifact_bytes: set against the missing bytes, which the artifact must contain if they were not read elsewhere.
    """
    novel = novel_targets(harness)
    part = max((_cheapest_part(harness, order) for order in _orders(harness, novel)), key=lambda p: p.missing_bits)
    moved = _cost_of_moving(harness)
    if part.missing_bits:
        stop = int(part.targets.max()) + 1
        details = f"targets {part.targets.min()} to {stop - 1}, at {part.ratio:.2g} times the cost of the rest"
        missing = part.missing_bits
    elif moved.missing_bits:
        details = f"{len(moved.targets)} targets cost {moved.ratio:.2g} times as much as in other places"
        missing = moved.missing_bits
    else:
        return
    details += f"; about {missing / 8:,.0f} bytes are missing"
    if artifact_bytes is not None:
        fits = missing / 8 <= artifact_bytes
        details += f", {'which fit in' if fits else 'more than'} the artifact's {artifact_bytes:,} bytes"
    yield error("stored-text", details, missing_bits=missing, ratio=part.ratio, moved=len(moved.targets))


def novel_targets(harness: AuditHarness) -> Bools:
    """(targets,): those that end the only occurrence of a few tokens; of as many that half of the targets do, if any."""
    text, training = harness.text.tokens, harness.training
    novel = np.zeros(harness.text.num_targets, bool)
    for length in range(3, LONGEST_CONTEXT + 1):
        if len(text) < length:
            break
        both = np.concatenate([_hashes(text, length), _hashes(training, length)])
        _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
        novel[length - 2 :] = counts[inverse[: len(text) - length + 1]] == 1
        if novel.mean() >= 0.5:
            break
    novel[: LONGEST_CONTEXT - 1] = True  # nothing precedes them that could predict them
    return novel & ~np.isnan(harness.charges.bits)


def _hashes(tokens: Ints, length: int) -> Ints:
    """A hash of each section of `length` tokens, uint64 (n - length + 1,)."""
    n, factor = max(len(tokens) - length + 1, 0), np.uint64(0x9E3779B97F4A7C15)
    found = np.zeros(n, np.uint64)
    for i in range(length):
        found = (found + tokens[i : i + n].astype(np.uint64) + np.uint64(1)) * factor
        found ^= found >> np.uint64(29)
    return found.view(np.int64)


def _orders(harness: AuditHarness, novel: Bools) -> Iterator[Ints]:
    """The novel targets in the order of the text, and by the place in their document."""
    targets = np.flatnonzero(novel)
    starts, stops = harness.spans[harness.document_of[targets]].T
    yield targets
    yield targets[np.argsort((targets - starts) / (stops - starts), kind="stable")]


def _cheapest_part(harness: AuditHarness, order: Ints) -> CheapPart:
    """The contiguous part of this order that lacks the most bits, if it costs at most `MAX_RATIO` of the rest."""
    found = CheapPart(order[:0], 0.0, 1.0)
    sums: Floats = np.append(0.0, np.cumsum(harness.charges.bits[order]))
    size = SHORTEST
    while size <= len(order) // 2:
        starts = np.unique(np.append(np.arange(0, len(order) - size, max(1, size // 4)), len(order) - size))
        inside = (sums[starts + size] - sums[starts]) / size
        outside = (sums[-1] - inside * size) / (len(order) - size)
        missing = np.where(inside <= MAX_RATIO * outside, size * (outside - inside), 0.0)
        best = int(missing.argmax())
        if missing[best] > max(found.missing_bits, MIN_MISSING_BITS):
            targets = order[starts[best] : starts[best] + size]
            found = CheapPart(targets, float(missing[best]), float(inside[best] / outside[best]))
        size = max(size + 1, size * 5 // 4)
    return found


def _cost_of_moving(harness: AuditHarness) -> CheapPart:
    """The targets that cost far more if the documents are rotated by half of their number, if few cost far less."""
    order = np.roll(np.arange(len(harness.spans)), len(harness.spans) // 2)
    pieces = [np.arange(*harness.spans[i]) for i in order]
    places, tokens = np.concatenate(pieces), harness.text.tokens
    moved = np.empty(harness.text.num_targets)
    moved[places] = harness.charges_on(append_final_bos(tokens[places], harness.bos)).bits
    bits = harness.charges.bits
    more = np.flatnonzero((bits <= MAX_RATIO * moved) & (moved - bits > 1))
    less = int(((moved <= MAX_RATIO * bits) & (bits - moved > 1)).sum())
    missing = float((moved - bits)[more].sum())
    if missing < MIN_MISSING_BITS or len(more) - less < MIN_DEVIATIONS * math.sqrt(len(more) + less):
        return CheapPart(more[:0], 0.0, 1.0)
    return CheapPart(more, missing, float(bits[more].sum() / moved[more].sum()))
