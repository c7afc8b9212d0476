"""Damaged, truncated and malicious streams: decoding raises an error or returns valid symbols, with bounded memory."""

from __future__ import annotations

import lzma
import tracemalloc
import zlib
from contextlib import suppress

import brotli
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.config.spec import Spec
from bitgolf.errors import CorruptFileError
from bitgolf.pack import frequency_tables
from bitgolf.pack.byte_coders import LZMA, Brotli, Zlib, Zstd
from bitgolf.pack.coders import Coder, RangeCoder
from helpers.coders import CODERS, DTYPES, gaussian, same
from helpers.examples import examples


@pytest.mark.parametrize("spec", CODERS, ids=repr)
def test_wrong_sizes_and_other_bytes_are_damage(spec: Spec[Coder]) -> None:
    coder, codes = spec(), gaussian(12.85, 2000)
    data = coder.encode(codes)
    for wrong in (data[:-1], data + b"\1", data + data, data[: len(data) // 2], b"", data[1:]):
        with pytest.raises(CorruptFileError):
            coder.decode(wrong, codes.dtype, codes.size)
    for count in (0, 1, 1000, 2001, 4000):
        with pytest.raises(CorruptFileError):
            coder.decode(data, codes.dtype, count)


@pytest.mark.parametrize("coder", [spec() for spec in CODERS], ids=map(repr, CODERS))
@settings(max_examples=examples(60), deadline=None)
@given(data=st.binary(max_size=200), dtype=st.sampled_from(DTYPES), count=st.integers(0, 50))
def test_any_bytes_decode_or_are_damage(coder: Coder, data: bytes, dtype: np.dtype[np.generic], count: int) -> None:
    try:
        symbols = coder.decode(data, dtype, count)
    except CorruptFileError:
        return
    assert symbols.dtype == dtype and symbols.shape == (count,)


@pytest.mark.parametrize("form", ["smallest", "sent", "adaptive"])
@settings(max_examples=examples(60), deadline=None)
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7), count=st.integers(2, 400))
def test_a_flipped_bit_in_a_range_payload_never_passes_as_the_same(
    form: frequency_tables.TableKinds, at: int, bit: int, count: int
) -> None:
    """This also holds for flips in stored counts. A slightly different curve may give the same code for few symbols."""
    coder, codes = RangeCoder(tables=form), gaussian(12.85, 400)[:count]
    data = bytearray(coder.encode(codes))
    _, payload = frequency_tables.read_table(bytes(data), frequency_tables.read_leb128(bytes(data), 0)[1])
    first = 0 if form == "sent" else payload
    data[first + at % (len(data) - first)] ^= 1 << bit
    with suppress(CorruptFileError):
        assert not same(coder.decode(bytes(data), codes.dtype, count), codes)


def zstd_frame(raw: bytes, window: int, **what: bool) -> bytes:
    """A frame that `Zstd` does not write: with the fields `what` in its header, or with a window of any size."""
    form = {"format": zstandard.FORMAT_ZSTD1_MAGICLESS, "write_content_size": False, "write_checksum": False, **what}
    parameters = zstandard.ZstdCompressionParameters(window_log=window, **form)
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    if what:
        return compressor.compress(raw)
    stream = compressor.compressobj()  # does not know the size, so the window is not reduced
    return stream.compress(raw) + stream.flush()


def bomb(coder: Coder) -> bytes:
    """A short stream in the coder's format that decodes to 16 MB of zeros."""
    zeros = bytes(1 << 24)
    if isinstance(coder, Zlib):
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        return deflate.compress(zeros) + deflate.flush()
    if isinstance(coder, LZMA):
        filters = [{"id": lzma.FILTER_LZMA1, "preset": 9, "dict_size": 4096}]
        return lzma.compress(zeros, lzma.FORMAT_RAW, filters=filters)
    return brotli.compress(zeros, quality=5) if isinstance(coder, Brotli) else zstd_frame(zeros, 10)


@pytest.mark.parametrize("coder", [Zlib(), LZMA(), Brotli(), Zstd()], ids=["zlib", "lzma", "brotli", "zstd"])
def test_bombs_are_not_expanded(coder: Coder) -> None:
    data = bomb(coder)
    assert len(data) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(CorruptFileError):
            coder.decode(data, np.dtype(np.uint8), 1000)
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("frame", "word"),
    [
        (zstd_frame(bytes(5000), 13, write_content_size=True), "declares a content size"),
        (zstd_frame(bytes(5000), 13, write_checksum=True), "or a checksum"),
        (zstd_frame(bytes(5000), 27), "declares a window of 134217728 bytes"),
    ],
    ids=["size", "checksum", "window"],
)
def test_zstandard_frames_are_only_what_is_needed(frame: bytes, word: str) -> None:
    with pytest.raises(CorruptFileError, match=word):
        Zstd().decode(frame, np.dtype(np.uint8), 5000)
    plain = zstd_frame(bytes(5000), 13)
    assert not Zstd().decode(plain, np.dtype(np.uint8), 5000).any()
