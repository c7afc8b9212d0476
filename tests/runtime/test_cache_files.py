"""The user's cache of results: what is damaged, foreign or unwritable is as if it were not there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.files import with_digest
from bitgolf.runtime.cache_files import CacheFiles, cache_folder


def test_what_is_written_is_read(tmp_path: Path) -> None:
    files = CacheFiles(tmp_path / "new", 10)
    assert files.read("a") is None
    files.write("a", {"bytes": 7})
    assert files.read("a") == {"bytes": 7} and files.read("b") is None


CONTENTS = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([b"", b"[]", b"null", b"7", b"[" * 100_000, b"1" * 5_000, b'{"bytes": NaN}', b'"\\ud800"']),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=3).map(lambda found: json.dumps(found).encode()),
)


@given(CONTENTS)
def test_no_other_contents_are_taken_for_a_result(content: bytes) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        (Path(folder) / "a.json").write_bytes(content)
        assert CacheFiles(Path(folder), 10).read("a") is None


def test_a_changed_number_and_the_file_of_another_key_are_not_taken(tmp_path: Path) -> None:
    files = CacheFiles(tmp_path, 10)
    files.write("a", {"bytes": 7})
    (tmp_path / "b.json").write_bytes((tmp_path / "a.json").read_bytes())
    assert files.read("b") is None
    (tmp_path / "a.json").write_text((tmp_path / "a.json").read_text().replace("7", "8", 1))
    assert files.read("a") is None
    (tmp_path / "c.json").write_text(json.dumps(with_digest({"key": "c", "bytes": 9})))
    assert files.read("c") == {"bytes": 9}


def test_the_oldest_files_are_removed(tmp_path: Path) -> None:
    files = CacheFiles(tmp_path, 3)
    for i in range(6):
        files.write(str(i), {"bytes": i})
        os.utime(tmp_path / f"{i}.json", (i, i))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3.json", "4.json", "5.json"]


@pytest.mark.parametrize("kind", ["none", "file", "unwritable"])
def test_without_a_folder_nothing_is_kept_and_nothing_fails(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    if kind == "file":
        folder.write_text("")
    if kind == "unwritable":
        (tmp_path / "parent").write_text("")
        folder = tmp_path / "parent" / "cache"
    files = CacheFiles(None if kind == "none" else folder, 3)
    files.write("a", {"bytes": 7})
    assert files.read("a") is None


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "bitgolf"
