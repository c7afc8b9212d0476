"""Environment variables of OpenMP, whose threads run torch's operators on the CPU."""

from __future__ import annotations

import os


def limit_spinning() -> None:
    """Let torch's threads sleep, after a short spin, while they wait for each other.

    Call it before torch is imported: OpenMP reads the variables once. Variables that the user has set are kept.
    Torch's threads synchronize after every small product, and spin while they wait. If another program uses one of the
    cores, they compete with it: on a busy machine two threads fell from 27,000 tokens/s to 3,000, but only to 19,000
    with these limits (docs/measurements.md).
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GNU OpenMP: iterations of the spin loop before a thread sleeps
    os.environ.setdefault("KMP_BLOCKTIME", "1")  # LLVM OpenMP: milliseconds of spinning
