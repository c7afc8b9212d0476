"""Environment variables of OpenMP, which runs the threads of torch's operators on the CPU."""

from __future__ import annotations

import os


def limit_spinning() -> None:
    """Let threads of torch sleep soon while they wait for each other. For the start of a program: OpenMP reads it once,
    when torch is first imported. What the user has set stands.

    Torch's threads meet after every small product and spin while they wait. Where another program holds one of the cores,
    they then spin against it: two threads fell from 27,000 tokens/s to 3,000 on a busy machine, and to 19,000 with these
    limits (docs/log.md).
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GNU's OpenMP: rounds of waiting before a thread sleeps
    os.environ.setdefault("KMP_BLOCKTIME", "1")  # LLVM's: milliseconds
