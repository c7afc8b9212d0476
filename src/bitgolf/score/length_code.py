"""A lossless code for document lengths. Its size is charged to methods that need the lengths in advance.

    size of the coded buckets in bytes (LEB128) | range-coded buckets | offset of each length in its bucket, as raw bits

There are four buckets per power of two. Within a bucket, lengths are almost equally likely, so their low bits are not
coded further.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitgolf.pack.frequency_tables import write_leb128
from bitgolf.pack.range_coder import encode_plane_stream

Lengths = npt.NDArray[np.int64]


def encode_lengths(lengths: Lengths) -> bytes:
    """Encode lengths from 1 to 2^62 - 1, in order. The code is lossless."""
    buckets = encode_plane_stream(np.array([[bucket_of(n) for n in lengths.tolist()]], np.uint8))
    bits = "".join(f"{n & (1 << low) - 1:0{low}b}" for n in lengths.tolist() if (low := low_bits(bucket_of(n))))
    return write_leb128(len(buckets)) + buckets + np.packbits(np.array(list(bits), np.uint8)).tobytes()


def bucket_of(n: int) -> int:
    """The bucket of a length: 0 … 3 have one each, every further power of two has four."""
    exponent = n.bit_length() - 1
    return n if exponent < 2 else 4 * (exponent - 1) + (n >> (exponent - 2) & 3)


def low_bits(bucket: int) -> int:
    """Number of bits of the offset of a length in this bucket."""
    return max(0, bucket // 4 - 1)
