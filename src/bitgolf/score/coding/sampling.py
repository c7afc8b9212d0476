"""The random sample of groups that a proof decompresses, and the confidence that it gives for the others."""

from __future__ import annotations

import hashlib

CONFIDENCE = 0.95


def sample_groups(commitment: bytes, challenge: str, groups: int, sample: int) -> list[int]:
    """The numbers of `sample` of `groups` groups, in ascending order; all of them if `sample` is 0.

    Groups are ranked by a SHA-256 of commitment, challenge and number. So the sample is fixed only after the groups
    have been compressed, and a verifier can draw another one with another challenge.
    """
    seed = hashlib.sha256(commitment + challenge.encode()).digest()
    order = sorted(range(groups), key=lambda i: hashlib.sha256(seed + i.to_bytes(4, "big")).digest())
    return sorted(order[: sample or groups])


def max_false_fraction(sample: int, groups: int) -> float:
    """The largest fraction f of false groups that a sample misses with a probability of 5 %: (1 - f)^sample = 0.05."""
    return 0.0 if sample >= groups else 1 - (1 - CONFIDENCE) ** (1 / sample)
