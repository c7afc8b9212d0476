"""A bundle is a ZIP file of one form: any changed, missing or added byte is found."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.errors import BitgolfError, CorruptFileError, FormatVersionError
from bitgolf.evidence import container
from bitgolf.evidence.container import read_bundle, write_bundle

PARTS = {"a.json": b'{"x": 1}', "code/b.py": b"print('\xc3\xbc')\n", "empty": b"", "log": b"0123456789" * 9}


def read(data: bytes, folder: Path) -> dict[str, bytes]:
    path = folder / "x.zip"
    path.write_bytes(data)
    return read_bundle(path)


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9),
        st.binary(max_size=50),
        max_size=6,
    )
)
@settings(max_examples=30)
def test_parts_come_back(tmp_path_factory: pytest.TempPathFactory, parts: dict[str, bytes]) -> None:
    parts.pop("manifest.json", None)
    data = write_bundle(parts)
    assert read(data, tmp_path_factory.getbasetemp()) == parts
    assert write_bundle(dict(reversed(parts.items()))) == data


def test_any_zip_program_can_unpack_it() -> None:
    with zipfile.ZipFile(io.BytesIO(write_bundle(PARTS))) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist() if name != "manifest.json"} == PARTS


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    data = write_bundle({"a": b"12"})
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        with pytest.raises((CorruptFileError, FormatVersionError)):
            read(bytes(damaged), tmp_path)


def test_every_shorter_or_longer_file_is_refused(tmp_path: Path) -> None:
    data = write_bundle(PARTS)
    for wrong in [data[:size] for size in range(0, len(data), 7)] + [data + b"\0", b"\0" + data, data * 2, b"text"]:
        with pytest.raises(BitgolfError):
            read(wrong, tmp_path)


def test_a_changed_part_is_named(tmp_path: Path) -> None:
    data = write_bundle(PARTS).replace(b"0123456789" * 9, b"0123456789" * 8 + b"0123456780")
    with pytest.raises(CorruptFileError):
        read(data, tmp_path)
    changed = container._archive(
        {
            "manifest.json": zipfile.ZipFile(io.BytesIO(write_bundle(PARTS))).read("manifest.json"),
            **dict(sorted((PARTS | {"log": b"other"}).items())),
        }
    )
    with pytest.raises(CorruptFileError, match=r"log.*has changed"):
        read(changed, tmp_path)


def test_a_part_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    archive = zipfile.ZipFile(io.BytesIO(write_bundle(PARTS)))
    parts = {name: archive.read(name) for name in archive.namelist()}
    for wrong in (parts | {"more": b"1"}, {n: d for n, d in parts.items() if n != "log"}):
        with pytest.raises(CorruptFileError, match="manifest"):
            read(container._archive(wrong), tmp_path)


def test_a_compressed_zip_is_not_a_bundle(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", "0" * 10_000_000)
    with pytest.raises(CorruptFileError, match="another kind of ZIP"):
        read(buffer.getvalue(), tmp_path)


def test_another_format_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_bundle(PARTS)
    monkeypatch.setattr(container, "FORMAT", 2)
    with pytest.raises(FormatVersionError):
        read(data, tmp_path)


def test_what_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "LARGEST", 100)
    with pytest.raises(BitgolfError, match="leave the proof out"):
        write_bundle(PARTS)
