"""The smallest of several coders' streams, without running a slow coder that is clearly behind.

Brotli at quality 11 takes about a second for a megabyte, and on quantized weights it is 0.8 to 1.4 % behind range coding. The
rate of a sample says so: it is within 0.1 % of the whole's for Brotli and Zstandard, and too low by up to 1.5 % for LZMA.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from bitgolf.pack.byte_planes import Array
from bitgolf.pack.optional_modules import library
from bitgolf.pack.parallel import spread

SAMPLE, PIECE = 1 << 18, 1 << 14
ALIKE = 0.99  # of a sample's rate: what a quick coder may need for a byte of the whole, if the sample is like it
MARGIN = 0.005  # by so much an estimate may be too high


class Estimated(Protocol):
    """What is asked of a coder here, see `coders.Coder`."""

    def estimate(self, arrays: Sequence[Array]) -> float | None: ...

    def encode_arrays(self, arrays: Sequence[Array]) -> bytes: ...


def contenders(coders: Sequence[Estimated], arrays: Sequence[Array]) -> dict[int, bytes]:
    """By the coder's index, in order, the streams among which the smallest is.

    A coder whose estimate is more than `MARGIN` above what another one really makes is left out. So the smallest of these
    is larger than that of all only where an estimate is too high by more than the margin, and then by no more than that.
    """

    def first(coder: Estimated) -> bytes | float:
        about = coder.estimate(arrays)
        return coder.encode_arrays(arrays) if about is None else about

    found = dict(enumerate(spread(first, coders)))
    coded = {i: data for i, data in found.items() if isinstance(data, bytes)}
    about = {i: size for i, size in found.items() if isinstance(size, float)}
    if not coded:
        likeliest = min(about, key=about.__getitem__)
        coded[likeliest] = coders[likeliest].encode_arrays(arrays)
    least = min(map(len, coded.values()))
    close = [i for i, size in about.items() if i not in coded and size * (1 - MARGIN) <= least]
    slow = spread(lambda i: coders[i].encode_arrays(arrays), close)
    return dict(sorted((coded | dict(zip(close, slow, strict=True))).items()))


def estimate(compress: Callable[[bytes], bytes], raw: bytes) -> float | None:
    """What the rate of a sample makes of the whole; None where the whole has repeats that the sample has not.

    The sample: `SAMPLE` bytes, or a 32nd of all if that is more, in pieces of `PIECE` evenly spread.
    """
    count = max(SAMPLE, len(raw) // 32) // PIECE
    starts = np.linspace(0, len(raw) - PIECE, count).astype(int)
    sample = b"".join(raw[start : start + PIECE] for start in starts)
    if _rate_with_repeats(raw) < ALIKE * _rate_with_repeats(sample):
        return None
    return len(raw) * len(compress(sample)) / len(sample)


def _rate_with_repeats(raw: bytes) -> float:
    """Bytes for each byte that Zstandard makes with matches of 7 bytes or more at any distance, at over 100 MB a second."""
    zstd, settings = library("zstandard"), {"window_log": 27, "enable_ldm": True, "min_match": 7}
    far = zstd.ZstdCompressionParameters.from_level(1, source_size=len(raw), **settings)
    return len(zstd.ZstdCompressor(compression_params=far).compress(raw)) / len(raw)
