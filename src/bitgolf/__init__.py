"""Bitgolf: train, shrink and prove the best language model that fits a byte budget and a time budget."""

import os

__version__ = "0.1.0"

# Torch's threads meet after every small product and spin while they wait. Where another program holds one of the cores,
# they then spin against it: two threads fell from 27,000 tokens/s to 3,000 on a busy machine, and to 19,000 with
# these limits (docs/log.md). OpenMP reads them once, when torch is first imported; what the user has set stands.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GNU's OpenMP: rounds of waiting before a thread sleeps
os.environ.setdefault("KMP_BLOCKTIME", "1")  # LLVM's: milliseconds
