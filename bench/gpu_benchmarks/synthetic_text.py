"""Documents of random words, for benchmarks without a text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

LETTERS = np.frombuffer(b"etaoinshrdlucmfwypvbgk", np.uint8)


def write_random_text(path: Path, *, documents: int, words: int, lexicon: int, seed: int = 0) -> Path:
    """Write a jsonl file of random documents; returns its path.

    words: mean words per document. lexicon: number of different words, whose frequencies follow Zipf's law.
    """
    draw = np.random.default_rng(seed)
    known = [bytes(draw.choice(LETTERS, draw.integers(2, 10))).decode() for _ in range(lexicon)]
    share = 1 / np.arange(1, lexicon + 1)
    with path.open("w") as file:
        for _ in range(documents):
            count = draw.poisson(words)
            ids = draw.choice(lexicon, count, p=share / share.sum())
            file.write(json.dumps({"text": " ".join(known[i] for i in ids)}) + "\n")
    return path
