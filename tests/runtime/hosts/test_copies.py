"""Tests of the files of a run on other hosts."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitgolf.errors import UsageError
from bitgolf.files import file_digest
from bitgolf.runtime.hosts.copies import HostCopies
from bitgolf.runtime.hosts.inputs import HostFile, HostInputs


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def described(folder: Path, *names: str) -> tuple[HostFile, ...]:
    return tuple(HostFile(name, (folder / name).stat().st_size, file_digest(folder / name)) for name in names)


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """The folder of the run on the first host."""
    folder = tmp_path / "first"
    (folder / "data").mkdir(parents=True)
    (folder / "weights").write_bytes(b"12345")
    (folder / "data" / "a.bin").write_bytes(b"abc")
    return folder


def test_files_that_a_host_has_are_linked_and_others_are_asked_for(first: Path, tmp_path: Path) -> None:
    """The disk may be shared for some of them, and a file of the same length may differ."""
    here, files = tmp_path / "here", described(first, "weights", "data/a.bin")
    copies = HostCopies(None)
    assert copies.provide(HostInputs(folder=str(here), files=files)) == ("data/a.bin", "weights")
    here.mkdir()
    (here / "weights").write_bytes(b"12345")
    (here / "data").mkdir()
    (here / "data" / "a.bin").write_bytes(b"abd")
    assert copies.provide(HostInputs(folder=str(here), files=files)) == ("data/a.bin",)
    assert (copies.folder / "weights").resolve() == here / "weights"
    copies.path("data").mkdir()
    copies.path("data/a.bin").write_bytes(b"abc")
    assert copies.provide(HostInputs(folder=str(here), files=files)) == ()
    copies.remove()
    assert not copies.folder.exists() and (here / "weights").exists()


def test_a_new_version_is_not_written_through_a_link(first: Path) -> None:
    copies = HostCopies(None)
    assert copies.provide(HostInputs(folder=str(first), files=described(first, "weights"))) == ()
    new = HostFile("weights", 3, "another digest")
    assert copies.provide(HostInputs(folder=str(first), files=(new,))) == ("weights",)
    assert not (copies.folder / "weights").is_symlink() and (first / "weights").read_bytes() == b"12345"
    copies.remove()


def test_a_file_that_changes_is_read_again(first: Path) -> None:
    copies, files = HostCopies(None), described(first, "weights")
    assert copies.provide(HostInputs(folder=str(first), files=files)) == ()
    (first / "weights").write_bytes(b"54321")
    assert copies.provide(HostInputs(folder=str(first), files=files)) == ("weights",)
    copies.remove()


def test_shards_are_linked_from_the_folder_of_the_host(first: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "a.bin").write_bytes(b"abc")
    inputs = HostInputs(
        shards=described(first / "data", "a.bin"), shards_folder=str(tmp_path / "elsewhere"), shards_name="data"
    )
    copies = HostCopies(own)
    assert copies.provide(inputs) == () and (copies.folder / "data" / "a.bin").resolve() == own / "a.bin"
    copies.remove()
    with pytest.raises(UsageError, match=r"a\.bin cannot be read") as refused:
        HostCopies(None).provide(inputs)
    assert refused.value.where == str(tmp_path / "elsewhere") and "--shards" in refused.value.hint


@pytest.mark.parametrize(("content", "words"), [(b"abd", "has digest"), (b"abcd", "has 4 bytes instead of 3")])
def test_other_shards_are_refused(first: Path, tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(UsageError, match=words):
        HostCopies(tmp_path).provide(HostInputs(shards=described(first / "data", "a.bin"), shards_name="data"))


def test_small_texts_are_written() -> None:
    copies = HostCopies(None)
    copies.provide(HostInputs(texts=(("data/manifest.json", "{}"),)))
    assert (copies.folder / "data" / "manifest.json").read_text() == "{}"
    copies.remove()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.sampled_from(["a", "b", "..", "", "/"]), min_size=1, max_size=5))
def test_no_name_leads_out_of_the_folder(copies: HostCopies, parts: list[str]) -> None:
    name = "/".join(parts)
    try:
        path = copies.path(name)
    except ValueError:
        assert ".." in parts or name.startswith("/")
    else:
        assert path.resolve().is_relative_to(copies.folder.resolve())


@pytest.fixture
def copies() -> HostCopies:
    return HostCopies(None)
