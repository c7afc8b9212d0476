"""A code for the lengths of documents, which says how many bits it costs to know them.

    bytes of the buckets (LEB128) | the buckets, range-coded | the bits that place each length in its bucket

There are four buckets for each power of two. Within a bucket, lengths are nearly equally likely, so their lower bits are
written as they are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitgolf.pack.frequency_tables import write_leb128
from bitgolf.pack.range_coder import encode_plane_stream

Lengths = npt.NDArray[np.int64]


def encode_lengths(lengths: Lengths) -> bytes:
    """Encode numbers of at least 1 and less than 2^62, in their order; they can be decoded without loss."""
    buckets = encode_plane_stream(np.array([[bucket_of(n) for n in lengths.tolist()]], np.uint8))
    bits = "".join(f"{n & (1 << low) - 1:0{low}b}" for n in lengths.tolist() if (low := low_bits(bucket_of(n))))
    return write_leb128(len(buckets)) + buckets + np.packbits(np.array(list(bits), np.uint8)).tobytes()


def bucket_of(n: int) -> int:
    """The bucket of a length: 0 … 3 have one each, then every power of two has four."""
    octave = n.bit_length() - 1
    return n if octave < 2 else 4 * (octave - 1) + (n >> (octave - 2) & 3)


def low_bits(bucket: int) -> int:
    """The number of bits that place a length in its bucket."""
    return max(0, bucket // 4 - 1)
