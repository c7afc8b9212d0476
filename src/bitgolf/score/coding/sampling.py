"""The sample of groups that a proof decompresses, and what it says about the others."""

from __future__ import annotations

import hashlib

CONFIDENCE = 0.95


def sample_groups(commitment: bytes, challenge: str, groups: int, sample: int) -> list[int]:
    """The numbers of `sample` out of so many groups, in rising order; of all groups if `sample` is 0.

    They are those whose number, hashed with the commitment and the challenge, comes first. So they are decided once the
    groups have been compressed, and a verifier's challenge decides them anew.
    """
    seed = hashlib.sha256(commitment + challenge.encode()).digest()
    order = sorted(range(groups), key=lambda i: hashlib.sha256(seed + i.to_bytes(4, "big")).digest())
    return sorted(order[: sample or groups])


def max_false_fraction(sample: int, groups: int) -> float:
    """The largest fraction f of false groups that a sample misses with a probability of 5 %: (1 - f)^sample = 0.05."""
    return 0.0 if sample >= groups else 1 - (1 - CONFIDENCE) ** (1 / sample)
