"""A lossless code for document lengths. Its size is charged to methods that need the lengths in advance.

    size of the coded buckets in bytes (LEB128) | range-coded buckets | offset of each length in its bucket, as raw bits

There are four buckets per power of two. Within a bucket, lengths are almost equally likely, so their low bits are not
coded further.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitgolf.errors import CorruptFileError
from bitgolf.pack.frequency_tables import read_leb128, write_leb128
from bitgolf.pack.range_coder import decode_plane_stream, encode_plane_stream

MAX_LENGTH = 2**40
"""Largest length that is decoded."""
Lengths = npt.NDArray[np.int64]


def encode_lengths(lengths: Lengths) -> bytes:
    """Encode lengths from 1 to 2^62 - 1, in order. The code is lossless."""
    buckets = encode_plane_stream(np.array([[bucket_of(n) for n in lengths.tolist()]], np.uint8))
    bits = "".join(f"{n & (1 << low) - 1:0{low}b}" for n in lengths.tolist() if (low := low_bits(bucket_of(n))))
    return write_leb128(len(buckets)) + buckets + np.packbits(np.array(list(bits), np.uint8)).tobytes()


def decode_lengths(data: bytes, count: int) -> Lengths:
    """The `count` lengths that `encode_lengths` encoded. Raises `CorruptFileError` for any other data."""
    size, start = read_leb128(data, 0)
    buckets = decode_plane_stream(data[start : start + size], 1, count)[0].tolist()
    if buckets and max(buckets) > bucket_of(MAX_LENGTH):
        raise CorruptFileError(f"a length is in bucket {max(buckets)}, above that of {MAX_LENGTH}")
    widths = np.array([low_bits(bucket) for bucket in buckets], np.int64)
    bits = np.unpackbits(np.frombuffer(data[start + size :], np.uint8))
    if len(bits) != -(-int(widths.sum()) // 8) * 8:
        raise CorruptFileError(f"{len(bits)} bits for the offsets of {count} lengths, which take {widths.sum()}")
    lengths, at = list[int](), 0
    for bucket, width in zip(buckets, widths.tolist(), strict=True):
        offset = int("".join(map(str, bits[at : at + width].tolist())) or "0", 2)
        lengths.append(smallest_length(bucket) + offset)
        at += width
    found = np.array(lengths, np.int64)
    if encode_lengths(found) != data:
        raise CorruptFileError("the lengths are not coded as this version codes them")
    return found


def smallest_length(bucket: int) -> int:
    """The least length in a bucket."""
    return bucket if bucket < 4 else (4 + bucket % 4) << (bucket // 4 - 1)


def bucket_of(n: int) -> int:
    """The bucket of a length: 0 … 3 have one each, every further power of two has four."""
    exponent = n.bit_length() - 1
    return n if exponent < 2 else 4 * (exponent - 1) + (n >> (exponent - 2) & 3)


def low_bits(bucket: int) -> int:
    """Number of bits of the offset of a length in this bucket."""
    return max(0, bucket // 4 - 1)
