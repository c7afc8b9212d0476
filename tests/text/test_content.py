"""Is a file text: NUL bytes, invalid UTF-8, magic numbers, and byte-order marks."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.errors import BitgolfError
from bitgolf.text.content import MAGIC_NUMBERS, UnreadableFormat, invalid_bytes, peek, read_text, windows
from bitgolf.text.documents import ReadOptions, ReadReport, read_documents
from helpers.text_containers import blocks_of

BINARY = {
    "nul": (b"text\0text", "byte 4 is NUL"),
    "latin": ("é".encode("latin-1") * 2 + b"a" * 9, "2 of its first 11 bytes are not valid UTF-8"),
    "late_nul": (b"word\n" * 700_000 + b"\0", "byte 3,500,000 is NUL"),
    "late_bytes": (b"word\n" * 300_000 + b"\xff" * 900_000, "are not valid UTF-8"),
    "odd_utf16": (codecs.BOM_UTF16_LE + b"a\0b", "not valid UTF-16"),
    **{f"magic{i}": (magic + b"rest", kind) for i, (magic, kind) in enumerate(MAGIC_NUMBERS)},
}


@pytest.mark.parametrize("name", BINARY)
def test_a_file_that_is_not_text_is_an_error_where_it_is_named(name: str, tmp_path: Path) -> None:
    data, message = BINARY[name]
    path = tmp_path / f"{name}.txt"
    path.write_bytes(data)
    with pytest.raises(BitgolfError, match=message) as error:
        list(read_documents([path]))
    assert error.value.where == path.as_posix() and error.value.hint and error.value.exit_code == 1


@pytest.mark.parametrize("name", [name for name in BINARY if not name.startswith("late")])
def test_a_file_that_is_not_text_is_skipped_and_counted_in_a_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.txt").write_bytes(BINARY[name][0])
    (tmp_path / "z.txt").write_bytes(b"text")
    for given_path in (tmp_path, f"{tmp_path}/*.txt"):
        report = ReadReport()
        assert [d.data for d in read_documents([given_path], report=report)] == [b"text"]
        assert report.skipped["not text"].first == [(tmp_path / f"{name}.txt").as_posix()]
        assert report.files == 1 and report.converted == {}


def test_strict_reading_makes_it_an_error_there_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"text")
    (tmp_path / "b.bin").write_bytes(b"\0")
    with pytest.raises(BitgolfError, match="the file is not text: byte 0 is NUL") as error:
        list(read_documents([tmp_path], ReadOptions(strict=True)))
    assert error.value.where == (tmp_path / "b.bin").as_posix()


def test_a_folder_without_text_says_what_was_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\0")
    with pytest.raises(BitgolfError, match=r"no documents found \(skipped: not text: 1 \(.*a.bin\)\)"):
        list(read_documents([tmp_path]))


def test_a_file_that_turns_binary_after_its_first_part_is_an_error_in_a_folder_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(BINARY["late_nul"][0])
    with pytest.raises(BitgolfError, match="NUL"):
        list(read_documents([tmp_path]))


def test_a_tenth_of_invalid_bytes_is_still_text(tmp_path: Path) -> None:
    data = "é".encode("latin-1") + b"a" * 9
    (tmp_path / "a.txt").write_bytes(data)
    assert [d.data for d in read_documents([tmp_path / "a.txt"])] == [data]


@settings(deadline=None)
@given(st.text(max_size=60), st.sampled_from(["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]), st.integers(1, 9))
def test_a_byte_order_mark_names_the_encoding(text: str, encoding: str, size: int) -> None:
    text = text.replace("\0", "") + "end"
    report = ReadReport()
    data = ("\ufeff" + text).encode(encoding)
    assert b"".join(read_text(blocks_of(data, size), "a", report)) == text.encode()
    assert {name: count.first for name, count in report.converted.items()} == {encoding[:6].upper(): ["a"]}


def test_utf_16_is_converted_in_records_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("id,text\r\n1,naïve\r\n".encode("utf-16"))
    (tmp_path / "b.jsonl").write_bytes('{"text": "日本"}\n'.encode("utf-16"))
    report = ReadReport()
    assert [d.data.decode() for d in read_documents([tmp_path], report=report)] == ["naïve", "日本"]
    assert report.converted["UTF-16"].count == 2 and "converted from UTF-16" in "\n".join(report.lines())


@given(st.lists(st.sampled_from([b"a", "é".encode(), "🙂".encode(), b"\xff", b"\xc3", b"\xf0\x9f"]), max_size=30))
def test_invalid_bytes_are_those_that_a_strict_decoder_replaces(parts: list[bytes]) -> None:
    data = b"".join(parts)
    assert invalid_bytes(data) == sum(0xDC80 <= ord(c) <= 0xDCFF for c in data.decode("utf-8", "surrogateescape"))


@given(st.lists(st.binary(max_size=9), max_size=20), st.integers(1, 9))
def test_windows_and_a_peek_lose_nothing(blocks: list[bytes], size: int) -> None:
    whole = b"".join(blocks)
    found = list(windows(blocks, size))
    assert b"".join(found) == whole and all(len(block) == size for block in found[:-1])
    head, rest = peek(blocks, size)
    assert whole.startswith(head) and len(head) >= min(size, len(whole)) and b"".join(rest) == whole


def test_the_check_is_the_same_for_any_blocks() -> None:
    data = "é".encode() * 600_000
    report = ReadReport()
    for size in (3, 999, len(data)):  # a block of 3 bytes ends with half a character
        assert b"".join(read_text(blocks_of(data, size), "a", report)) == data
        with pytest.raises(UnreadableFormat):
            list(read_text(blocks_of(data + b"\0", size), "a", report))
