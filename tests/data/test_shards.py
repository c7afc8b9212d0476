"""Tests of shards: the challenge's format byte for byte, strict reading, and repeated token streams."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bitgolf.data.shards import TokenStream, find_shards, find_sidecars, read_shard, sidecar_name, write_shard
from bitgolf.errors import BitgolfError, CorruptFileError, UsageError
from helpers.examples import examples


def shard_bytes(
    magic: int = 20240520, version: int = 1, count: int = 3, tokens: bytes = b"\x01\x00\x02\x00\xff\xff"
) -> bytes:
    return struct.pack("<3i", magic, version, count) + bytes(1012) + tokens


def test_the_format_is_the_challenges(tmp_path: Path) -> None:
    path = tmp_path / "train_000000.bin"
    write_shard(path, np.array([1, 2, 65535]))
    assert path.read_bytes() == shard_bytes()
    assert read_shard(path).tolist() == [1, 2, 65535]


@settings(deadline=None)
@given(ids=arrays.arrays(np.uint16, st.integers(1, 600)))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, ids: np.ndarray) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.bin"
    write_shard(path, ids.astype(np.int64))
    read = read_shard(path)
    assert read.dtype == np.uint16 and read.tolist() == ids.tolist()
    assert path.stat().st_size == 1024 + 2 * len(ids)


@pytest.mark.parametrize("ids", [[], [[1, 2]], [-1], [65536]])
def test_what_does_not_fit_is_not_written(tmp_path: Path, ids: list) -> None:
    with pytest.raises(BitgolfError, match=r"tokens|16 bits"):
        write_shard(tmp_path / "a.bin", np.array(ids, np.int64))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"\x01", "it has 1 bytes, but a header has 1024"),
        (shard_bytes()[:1023], "it has 1023 bytes, but a header has 1024"),
        (shard_bytes(magic=20240521), "starts with 20240521"),
        (shard_bytes(magic=0x18, version=0x13), "instead of 20240520"),
        (shard_bytes(magic=20240801, version=7), r"llm\.c for Llama 3, with 32-bit tokens"),
        (shard_bytes(magic=20240522), r"an evaluation file of llm\.c"),
        (struct.pack(">3i", 20240520, 1, 3) + bytes(1012) + b"\0\1\0\2\0\3", "big-endian"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 200001024\n", "pointer that Git LFS stores"),
        (np.arange(4000, dtype="<u2").tobytes(), "starts with 65536 instead of"),
        (shard_bytes(version=2), "version 2"),
        (shard_bytes(count=0, tokens=b""), "states 0 tokens"),
        (shard_bytes(count=-3), "states -3 tokens"),
        (shard_bytes(count=-(2**31)), "states -2,147,483,648 tokens"),
        (shard_bytes(tokens=b""), "ends after its header"),
        (shard_bytes(tokens=struct.pack("<3i", 1, 2, 3)), "32-bit tokens"),
        (shard_bytes(count=4), "too short"),
        (shard_bytes(count=2), "too long"),
        (shard_bytes(count=2**31 - 1), "too short"),
        (shard_bytes() + b"\x00", "too long"),
        (shard_bytes()[:-1], "too short"),
    ],
)
def test_a_damaged_shard_is_refused_and_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "train_000000.bin"
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match=message) as error:
        read_shard(path)
    assert error.value.where == str(path) and error.value.hint


@settings(deadline=None, max_examples=examples(300))
@given(
    start=st.sampled_from([b"", shard_bytes(), shard_bytes(count=2, tokens=b"")]),
    flips=st.lists(st.tuples(st.integers(0, 1040), st.integers(0, 255)), max_size=3),
    end=st.binary(max_size=40),
    cut=st.integers(0, 1060),
)
def test_any_bytes_are_tokens_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, start: bytes, flips: list[tuple[int, int]], end: bytes, cut: int
) -> None:
    data = bytearray(start + end)
    for at, value in flips:
        data[at : at + 1] = bytes([value])
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(bytes(data[:cut]))
    try:
        ids = read_shard(path)
    except CorruptFileError as error:
        assert error.where == str(path) and error.hint and len(str(error).splitlines()) == 2
    else:
        assert shard_bytes(count=len(ids), tokens=ids.tobytes())[:12] == bytes(data[:12])
        assert 1024 + 2 * len(ids) == min(cut, len(data)) and ids.tobytes() == bytes(data[1024:cut])


def test_shards_are_found_by_split_without_sidecars(tmp_path: Path) -> None:
    for name in (
        "fineweb_train_000001.bin",
        "fineweb_train_000000.bin",
        "fineweb_val_000000.bin",
        "fineweb_val_bytes_000000.bin",
        "val.txt",
    ):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in find_shards(tmp_path, "train")] == [
        "fineweb_train_000000.bin",
        "fineweb_train_000001.bin",
    ]
    assert [path.name for path in find_shards(tmp_path, "val")] == ["fineweb_val_000000.bin"]
    assert [path.name for path in find_sidecars(tmp_path, "val")] == ["fineweb_val_bytes_000000.bin"]
    assert find_sidecars(tmp_path, "train") == []
    assert sidecar_name("fineweb_val_000000.bin") == "fineweb_val_bytes_000000.bin"
    with pytest.raises(UsageError, match="no val shards"):
        find_shards(tmp_path / "nowhere", "val")
    with pytest.raises(BitgolfError, match="cannot be read"):
        read_shard(tmp_path / "nowhere.bin")
    with pytest.raises(UsageError, match="at least one"):
        TokenStream([])


def test_no_file_is_of_both_splits(tmp_path: Path) -> None:
    train = ["fineweb_train_000000.bin", "interval_train_000000.bin", "train0.bin", "val_as_train_0.bin"]
    val = ["fineweb_val_000000.bin", "restrained_val_000000.bin", "train_held_out_val_0.bin"]
    for name in [*train, *val, "trained_0.bin", "medieval_0.bin"]:
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in find_shards(tmp_path, "train")] == train
    assert [path.name for path in find_shards(tmp_path, "val")] == val


@settings(max_examples=examples(60), deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), start=st.integers(0, 200), length=st.integers(0, 60)
)
def test_a_window_is_a_stretch_of_the_endless_sequence(
    counting: Callable[..., TokenStream], lengths: list[int], start: int, length: int
) -> None:
    stream = counting(*lengths)
    assert len(stream) == sum(lengths)
    window = stream.window(start, length)
    assert window.dtype == np.int64
    assert window.tolist() == [(start + i) % sum(lengths) for i in range(length)]


def test_documents_start_at_each_bos(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.bin", np.array([1, 5, 1, 1]))
    write_shard(tmp_path / "b.bin", np.array([7, 1, 8]))
    starts = TokenStream([tmp_path / "a.bin", tmp_path / "b.bin"]).document_starts(bos=1)
    assert starts.dtype == np.int64 and starts.tolist() == [0, 2, 3, 5]


def test_the_next_document_is_searched_over_shards_and_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "a.bin", np.array([5, 1, 6, 6]))
    write_shard(tmp_path / "b.bin", np.array([7, 7, 7, 1, 8]))
    stream = TokenStream([tmp_path / "a.bin", tmp_path / "b.bin"])
    assert stream.shard_starts.tolist() == [0, 4] and stream.shard_sizes.tolist() == [4, 5]
    for block in (2, 100):
        monkeypatch.setattr("bitgolf.data.shards._BLOCK_TOKENS", block)
        assert [stream.next_document_start(i, 1) for i in range(10)] == [1, 1, 7, 7, 7, 7, 7, 7, 9, 9]
