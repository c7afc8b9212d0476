"""Hostile artifacts: reading an altered file either raises `BitgolfError` or returns exactly the original content.

It never raises another exception, hangs, allocates much memory, or returns other content.
"""

from __future__ import annotations

import json
import random
import resource
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import brotli
import numpy as np
import pytest

from bitgolf.artifact.container import MAX_HEADER, PREAMBLE, VERSION, Artifact, artifact_bytes, read_artifact
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.pack.byte_coders import LZMA, Brotli, Raw, Zlib
from bitgolf.pack.coder_selection import SmallestCoder
from bitgolf.pack.coders import Coder, RangeCoder
from bitgolf.pack.streams import EncodedTensor, Layout, pack_tensors, unpack_tensors

RECIPE = {"part": "Recipe", "name": "tiny", "seconds": 60.0}
META = {"bitgolf": "0.1.0", "tokenizer": "3f2a"}
CODERS: dict[str, Spec[Coder]] = {
    "range": part(RangeCoder),
    "brotli": part(Brotli, quality=5),
    "zlib": part(Zlib),
    "lzma": part(LZMA),
    "raw": part(Raw),
    "smallest": part(SmallestCoder, coders=(part(RangeCoder), part(Zlib), part(Raw))),
}
GROUPS = {f"{group}.{i}": group for group in CODERS for i in range(2)}
RULES = [part(Rule, where=group, use=coder) for group, coder in CODERS.items()]


def codes() -> dict[str, EncodedTensor]:
    generator = np.random.default_rng(0)
    return {
        path: {
            "codes": np.round(generator.standard_normal((6, 8)) * 3).astype(np.int8),
            "scales": generator.gamma(9, 0.01, 6).astype(np.float16),
        }
        for path in GROUPS
    }


CODES = codes()
LAYOUT: Layout = {path: {name: (a.dtype, a.shape) for name, a in code.items()} for path, code in CODES.items()}
GOOD = artifact_bytes(recipe=RECIPE, meta=META, sections=pack_tensors(CODES, GROUPS, RULES))
HEADER: dict[str, Any] = json.loads(
    brotli.decompress(GOOD[PREAMBLE.size : PREAMBLE.size + struct.unpack_from("<I", GOOD, 6)[0]])
)
BODY = GOOD[PREAMBLE.size + struct.unpack_from("<I", GOOD, 6)[0] :]


def build(header: bytes, body: bytes = BODY) -> bytes:
    """An artifact with the given header text and a valid checksum."""
    return build_packed(brotli.compress(header, quality=1), body)


def build_packed(packed: bytes, body: bytes = BODY) -> bytes:
    return PREAMBLE.pack(b"BGLF", VERSION, len(packed), zlib.crc32(packed)) + packed + body


def canonical(header: dict[str, Any]) -> bytes:
    """A header as the container writes it: recipe, meta, sections, with sorted keys inside."""
    inner = {
        key: json.dumps(header[key], separators=(",", ":"), sort_keys=True) for key in ("recipe", "meta", "sections")
    }
    return ("{" + ",".join(f'"{key}":{text}' for key, text in inner.items()) + "}").encode()


def contents(data: bytes) -> tuple[Artifact, dict[str, EncodedTensor]]:
    artifact = read_artifact(data, limit=1 << 20)
    return artifact, unpack_tensors(artifact.sections, LAYOUT, GROUPS, RULES)


def same_codes(found: dict[str, EncodedTensor]) -> bool:
    return all(
        found[p][n].tobytes() == a.tobytes() and found[p][n].shape == a.shape
        for p, c in CODES.items()
        for n, a in c.items()
    )


# ---- mutations of the file's bytes ---------------------------------------------------------------------------------


def flip(data: bytearray, r: random.Random) -> None:
    for _ in range(r.choice([1, 1, 2, 5])):
        data[r.randrange(len(data))] ^= 1 << r.randrange(8)


def truncate(data: bytearray, r: random.Random) -> None:
    del data[r.randrange(len(data)) :]


def insert(data: bytearray, r: random.Random) -> None:
    at = r.randrange(len(data) + 1)
    data[at:at] = r.randbytes(r.choice([1, 2, 4, 40]))


def delete(data: bytearray, r: random.Random) -> None:
    at = r.randrange(len(data))
    del data[at : at + r.choice([1, 2, 4, 40])]


def swap(data: bytearray, r: random.Random) -> None:
    a, b = r.randrange(len(data)), r.randrange(len(data))
    data[a], data[b] = data[b], data[a]


def overwrite(data: bytearray, r: random.Random) -> None:
    at, n = r.randrange(len(data)), r.choice([1, 2, 4, 16])
    data[at : at + n] = r.choice([bytes(n), b"\xff" * n, r.randbytes(n)])


def repeat(data: bytearray, r: random.Random) -> None:
    at = r.randrange(len(data))
    data[at:at] = data[at : at + r.randrange(1, 30)]


def frame(data: bytearray, r: random.Random) -> None:
    """Change the magic, version, header length or checksum."""
    struct.pack_into(
        *r.choice([("<H", data, 4), ("<I", data, 6), ("<I", data, 10)]), r.choice([0, 1, 2, 0xFFFF, r.getrandbits(16)])
    )


def fake_checksum(data: bytearray, r: random.Random) -> None:
    """Damage the packed header and recompute its checksum."""
    length = struct.unpack_from("<I", data, 6)[0]
    data[PREAMBLE.size + r.randrange(length)] ^= 1 << r.randrange(8)
    struct.pack_into("<I", data, 10, zlib.crc32(data[PREAMBLE.size : PREAMBLE.size + length]))


BYTES: list[Callable[[bytearray, random.Random], None]] = [
    flip,
    truncate,
    insert,
    delete,
    swap,
    overwrite,
    repeat,
    frame,
]


def mutated_bytes(r: random.Random) -> bytes:
    data = bytearray(GOOD)
    r.choice(BYTES)(data, r)
    return bytes(data)


# ---- mutations with valid checksums --------------------------------------------------------------------------------

ODD: list[Any] = [
    0,
    1,
    -1,
    48,
    2**31,
    2**40,
    2**40 + 1,
    2**63,
    1.5,
    None,
    True,
    "",
    "x",
    "raw",
    [],
    {},
    "a" * 500,
    "../x",
    "matrix.codes",
]


def lying_table(r: random.Random) -> bytes:
    """An artifact whose table of sections has wrong lengths, counts, names, coders or order."""
    header = json.loads(canonical(HEADER))
    rows = header["sections"]
    match r.randrange(5):
        case 0:
            rows[r.randrange(len(rows))][r.randrange(6)] = r.choice(ODD)
        case 1:
            row = rows[r.randrange(len(rows))]
            row[r.randrange(2, 6)] += r.choice([-1, 1, 2, 48, 1 << 30])
        case 2:
            a, b = r.sample(range(len(rows)), 2)
            rows[a], rows[b] = rows[b], rows[a]
        case 3:
            rows.insert(
                r.randrange(len(rows)), r.choice([rows[0], ["extra", "raw", 0, 0, 0, 0], [], "x", rows[1][:-1]])
            )
        case 4:
            del rows[r.randrange(len(rows))]
    return build(canonical(header))


def forged_section(r: random.Random) -> bytes:
    """An artifact with another stream and valid checksums, so that it reaches the decoders."""
    header, body, at = json.loads(canonical(HEADER)), b"", 0
    target = r.randrange(len(header["sections"]))
    for i, row in enumerate(header["sections"]):
        stream = bytearray(BODY[at : at + row[2]])
        at += row[2]
        if i == target:
            r.choice([flip, truncate, insert, delete, overwrite, repeat])(stream, r)
            row[2], row[5] = len(stream), zlib.crc32(stream)
        body += stream
    return build(canonical(header), body)


def test_the_artifact_under_attack_is_good() -> None:
    artifact, found = contents(GOOD)
    assert artifact.recipe == RECIPE and same_codes(found)
    again, _ = contents(build(canonical(HEADER)))  # so that attacks with valid checksums reach their target
    assert again.sections == artifact.sections and len(again.sections) == 12
    assert read_artifact(build(with_recipe(b'{"a":1}'))).recipe == {"a": 1}


@pytest.mark.parametrize("mutations", [4_000, pytest.param(20_000, marks=pytest.mark.exhaustive)])
def test_thousands_of_mutations(mutations: int) -> None:
    r, slowest, refused = random.Random(0), 0.0, 0
    pristine = read_artifact(GOOD)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tenth = mutations // 10
    makers = [mutated_bytes] * (8 * tenth) + [lying_table] * tenth + [forged_section] * tenth
    for make in makers:
        data = make(r)
        start = time.perf_counter()
        try:
            artifact, found = contents(data)
        except BitgolfError as error:
            assert isinstance(error, CorruptFileError) and error.where and error.message
            refused += 1
        else:
            if make is forged_section:  # it may be another valid artifact with the same shapes
                assert {p: {n: (a.dtype, a.shape) for n, a in c.items()} for p, c in found.items()} == LAYOUT
            else:
                assert (artifact.recipe, artifact.meta, artifact.sections) == (RECIPE, META, pristine.sections)
                assert same_codes(found)
        slowest = max(slowest, time.perf_counter() - start)
    assert 0.95 * mutations < refused < mutations
    assert slowest < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_every_single_bit_is_covered() -> None:
    for i in range(8 * len(GOOD)):
        data = bytearray(GOOD)
        data[i // 8] ^= 1 << i % 8
        with pytest.raises(CorruptFileError):
            read_artifact(bytes(data))


def test_every_truncation_is_refused() -> None:
    for n in range(len(GOOD)):
        with pytest.raises(CorruptFileError):
            read_artifact(GOOD[:n])


def test_a_damaged_header_under_a_right_checksum_is_refused_or_seen() -> None:
    r = random.Random(1)
    for _ in range(2000):
        data = bytearray(GOOD)
        fake_checksum(data, r)
        try:
            artifact = read_artifact(bytes(data))
        except CorruptFileError:
            continue
        assert set(artifact.sections) and isinstance(artifact.recipe, dict)
        assert artifact.bytes == len(GOOD)


def test_bytes_behind_the_last_section_are_refused() -> None:
    for more in (b"\0", b"x", GOOD):
        with pytest.raises(CorruptFileError, match="followed by other bytes"):
            read_artifact(GOOD + more)


def test_a_compressed_header_beyond_the_limit_is_not_even_summed() -> None:
    packed = bytes(MAX_HEADER + 1)
    with pytest.raises(CorruptFileError, match="above the limit of 1048576 bytes"):
        read_artifact(build_packed(packed))


def test_unknown_keys_are_named() -> None:
    with pytest.raises(CorruptFileError, match="unknown field `more`"):
        read_artifact(build(HOSTILE["unknown key"]))
    row = canonical({"recipe": {}, "meta": {}, "sections": [["a", "raw", 0, 0, 0, 0, "more"]]})
    with pytest.raises(CorruptFileError, match="length 6"):
        read_artifact(build(row, b""))


# ---- hostile headers -----------------------------------------------------------------------------------------------

TABLE = canonical(HEADER).partition(b'"sections":')[2][:-1]


def with_recipe(text: bytes) -> bytes:
    return b'{"recipe":' + text + b',"meta":{},"sections":' + TABLE + b"}"


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "no object": b"[]",
    "null": b"null",
    "not text": b"\xff\xfe" * 50,
    "deep objects": with_recipe(b'{"a":' * 150_000 + b"1" + b"}" * 150_000),
    "deep lists": with_recipe(b'{"a":' + b"[" * 400_000 + b"]" * 400_000 + b"}"),
    "long number": with_recipe(b'{"a":' + b"9" * 500_000 + b"}"),
    "huge exponent": with_recipe(b'{"a":1e999999}'),
    "nan": with_recipe(b'{"a":NaN}'),
    "key twice": with_recipe(b'{"a":1,"a":2}'),
    "spaces": with_recipe(b'{"a": 1}'),
    "escaped": with_recipe(b'{"\\u0061":1}'),
    "surrogate": with_recipe(b'{"a":"\\ud800"}'),
    "recipe is a list": with_recipe(b"[]"),
    "unknown key": b'{"recipe":{},"meta":{},"sections":' + TABLE + b',"more":1}',
    "missing key": b'{"recipe":{},"sections":' + TABLE + b"}",
    "nested meta": b'{"recipe":{},"meta":{"a":{"b":1}},"sections":' + TABLE + b"}",
    "header twice": b'{"recipe":{},"recipe":{"a":1},"meta":{},"sections":' + TABLE + b"}",
    "trailing text": with_recipe(b"{}") + b"{}",
    "many sections": canonical(
        {"recipe": {}, "meta": {}, "sections": [[f"s{i}", "raw", 0, 0, 0, 0] for i in range(30_000)]}
    )[:-1],
    "promises": canonical({"recipe": {}, "meta": {}, "sections": [["a", "range", 0, 2**40, 2**40, 0]]}),
    "too long": with_recipe(b'{"a":"' + b"a" * MAX_HEADER + b'"}'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused_cheaply(name: str) -> None:
    data = build(HOSTILE[name])
    assert_refused_cheaply(data, 12 << 20)


@pytest.mark.parametrize("zeros", [b"\0", b" ", b"["])
def test_a_bomb_for_a_header_is_not_expanded(zeros: bytes) -> None:
    packed = brotli.compress(zeros * (1 << 26), quality=5)
    assert len(packed) < 1000
    assert_refused_cheaply(build_packed(packed), 4 << 20)


@pytest.mark.parametrize("length", [0, 1, MAX_HEADER, MAX_HEADER + 1, 2**31, 2**32 - 1])
def test_header_lengths_that_lie_are_refused(length: int) -> None:
    for size in (0, 10, 5000):
        assert_refused_cheaply(PREAMBLE.pack(b"BGLF", VERSION, length, 0) + bytes(size), 1 << 20)


def test_a_stream_that_promises_more_than_its_table_says_is_refused_before_decoding() -> None:
    """A decompression bomb, one byte value repeated 2^30 times, is stopped by the layout and by the reader's limit."""
    stream = b"\x80\x80\x80\x80\x04" + bytes([7, 0])  # 2**30 symbols, all 7
    row = ["range.codes", "range", len(stream), 1 << 30, 1 << 30, zlib.crc32(stream)]
    data = build(canonical({"recipe": {}, "meta": {}, "sections": [row]}), stream)
    assert_refused_cheaply(data, 1 << 20)
    section = read_artifact(data).sections["range.codes"]
    with pytest.raises(CorruptFileError, match="recipe requires 48"):
        unpack_tensors(
            {"range.codes": section}, {"a": {"codes": (np.dtype(np.int8), (6, 8))}}, {"a": "range"}, part(RangeCoder)
        )


def assert_refused_cheaply(data: bytes, memory: int) -> None:
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(CorruptFileError) as caught:
            contents(data)
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - start < 5
    assert len(str(caught.value)) < 1000
