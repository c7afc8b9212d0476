"""Compressed files and archives: all streams are read, in bounded steps, and damage is never taken for the end."""

from __future__ import annotations

import io
import tarfile
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.text.containers import BLOCK_BYTES, decompress
from bitgolf.text.documents import ReadOptions, ReadReport, read_documents
from bitgolf.text.read_report import DEFAULT_OPTIONS
from helpers.examples import examples
from helpers.text_containers import COMPRESS, blocks_of, tar, zipped

KINDS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
MEMBERS = {"b.txt": b"first", "a/c.jsonl": b'{"text": "second"}\n', "a/d.md": b"third"}


def datas(path: Path, report: ReadReport | None = None, options: ReadOptions = DEFAULT_OPTIONS) -> list[bytes]:
    return [document.data for document in read_documents([path], options, report)]


@pytest.mark.parametrize("suffix", KINDS)
@settings(deadline=None, max_examples=examples(30))
@given(parts=st.lists(st.binary(max_size=300), min_size=1, max_size=4), size=st.integers(1, 40))
def test_streams_in_one_file_come_back_in_any_blocks(suffix: str, parts: list[bytes], size: int) -> None:
    packed = b"".join(map(COMPRESS[suffix], parts))
    assert b"".join(decompress(KINDS[suffix], blocks_of(packed, size), "a")) == b"".join(parts)


@pytest.mark.parametrize("suffix", KINDS)
def test_a_truncated_or_altered_stream_is_an_error(suffix: str) -> None:
    packed = COMPRESS[suffix](b"word " * 400)
    for cut in (1, 5, len(packed) // 2, len(packed) - 1):
        with pytest.raises(CorruptFileError, match=f"cannot be decompressed as {KINDS[suffix]}") as error:
            list(decompress(KINDS[suffix], [packed[:cut]], "a.txt"))
        assert error.value.where == "a.txt"
    with pytest.raises(CorruptFileError):
        list(decompress(KINDS[suffix], [packed + b"trailing"], "a"))


@pytest.mark.parametrize("suffix", KINDS)
def test_a_step_gives_little_whatever_the_ratio(suffix: str) -> None:
    """A file of zeros, compressed a thousandfold and more, is never held as a whole."""
    size = 1 << 28 if suffix == ".zst" else 1 << 24
    packed = COMPRESS[suffix](bytes(size))
    sizes = [len(data) for data in decompress(KINDS[suffix], [packed], "a")]
    assert sum(sizes) == size and max(sizes) <= 1 << 27
    if suffix != ".zst":
        assert max(sizes) <= BLOCK_BYTES


def test_zstd_with_a_window_of_1_gib_is_read(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path = tmp_path / "a.txt.zst"
    path.write_bytes(packer.compress(b"text") + packer.flush())
    assert zstandard.get_frame_parameters(path.read_bytes()).window_size == 1 << 30
    assert datas(path) == [b"text"]


def test_zeros_after_gzip_are_padding(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(COMPRESS[".gz"](b"one ") + bytes(512) + COMPRESS[".gz"](b"two") + bytes(512))
    assert datas(path) == [b"one two"]


ARCHIVES = {
    "a.zip": zipped(MEMBERS),
    "a.tar": tar(MEMBERS),
    **{f"a.tar{suffix}": pack(tar(MEMBERS)) for suffix, pack in COMPRESS.items()},
    "a.tgz": COMPRESS[".gz"](tar(MEMBERS)),
    "a.TXZ": COMPRESS[".xz"](tar(MEMBERS)),
    "a.gz": COMPRESS[".gz"](tar(MEMBERS)),  # a tar archive by its content
    "no_suffix": COMPRESS[".bz2"](tar(MEMBERS)),
    "also_no_suffix": zipped(MEMBERS),
    "nested.zip": zipped({"inner.tar.gz": COMPRESS[".gz"](tar({"x.zip": zipped(MEMBERS)}))}),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_members_of_an_archive_are_read_in_its_order(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(ARCHIVES[name])
    for source in (path, tmp_path):
        report = ReadReport()
        assert datas(source, report) == [b"first", b"second", b"third"]
        assert report.formats == {"text": 2, "jsonl": 1} and report.skipped == {}


def test_a_document_of_an_archive_is_named_by_archive_and_member(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar(MEMBERS))
    names = [document.name for document in read_documents([path])]
    assert names == [f"{path.as_posix()}/{name}" for name in ("b.txt", "a/c.jsonl:1", "a/d.md")]


def test_links_binaries_and_hidden_members_are_skipped_and_counted(tmp_path: Path) -> None:
    handle = io.BytesIO(tar({"a.txt": b"text", ".b.txt": b"hidden", "__MACOSX/._a.txt": b"x", "c.bin": b"\0"}))
    with tarfile.open(fileobj=handle, mode="a") as archive:
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "a.txt"
        archive.addfile(link)
    path, report = tmp_path / "a.tar", ReadReport()
    path.write_bytes(handle.getvalue())
    assert datas(path, report) == [b"text"]
    counts = {reason: skipped.count for reason, skipped in report.skipped.items()}
    assert counts == {"hidden": 2, "not text": 1, "link or device in an archive": 1}


def _damaged_header() -> bytes:
    data = bytearray(tar(MEMBERS))
    data[1024 + 148 : 1024 + 156] = b"00000000"  # the checksum of the second member
    return bytes(data)


DAMAGED = {
    "cut.tar": tar(MEMBERS)[:1500],
    "cut_in_data.tar": tar({"a.txt": b"word " * 1000})[:2000],
    "header.tar": _damaged_header(),
    "no_end.tar": tar(MEMBERS)[: 6 * 512],
    "two.tar": tar(MEMBERS) + tar(MEMBERS),
    "cut.zip": zipped(MEMBERS)[:-30],
    "crc.zip": zipped({"a.txt": b"text"}).replace(zlib.crc32(b"text").to_bytes(4, "little"), b"0000"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_archive_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(DAMAGED[name])
    with pytest.raises(CorruptFileError, match="archive cannot be read") as error:
        datas(path)
    assert error.value.where == path.as_posix()


def test_an_archive_in_a_folder_is_skipped_only_if_nothing_of_it_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"text")
    (tmp_path / "b.tar").write_bytes(_damaged_header()[512:])
    (tmp_path / "c.zip").write_bytes(DAMAGED["cut.zip"])
    report = ReadReport()
    assert datas(tmp_path, report) == [b"text"]
    assert {reason: skipped.count for reason, skipped in report.skipped.items()} == {"damaged archive": 2}
    with pytest.raises(CorruptFileError, match="archive cannot be read"):
        datas(tmp_path, options=ReadOptions(strict=True))
    (tmp_path / "d.tar").write_bytes(_damaged_header())
    with pytest.raises(CorruptFileError, match="damaged or missing header at byte 1,024") as error:
        datas(tmp_path)
    assert error.value.where == (tmp_path / "d.tar").as_posix()


def test_an_encrypted_archive_is_an_error_with_a_hint(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.txt": b"text"}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(BitgolfError, match="encrypted") as error:
        datas(tmp_path / "a.zip")
    assert "unpack" in error.value.hint


def test_archives_may_not_be_nested_without_end(tmp_path: Path) -> None:
    data = b"text"
    for _ in range(20):
        data = tar({"a.txt" if data == b"text" else "a.tar": data})
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(BitgolfError, match="more than 8 archives"):
        datas(tmp_path / "a.tar")
