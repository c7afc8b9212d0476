"""Which files are read: links, patterns, standard input, special files, and names that are not UTF-8."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from bitgolf.errors import BitgolfError, UsageError, printable
from bitgolf.text.documents import ReadReport, TextFiles, read_documents
from bitgolf.text.files import absolute, copy_stream, is_stream


def datas(*paths: Path | str, report: ReadReport | None = None) -> list[bytes]:
    return [document.data for document in read_documents(paths, report=report)]


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder with links to a folder, to a file in it, to itself, to its parent, and to nothing."""
    for name in ("real/a.txt", "real/sub/b.txt", "corpus/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    for name, target in {
        "loop": ".",
        "more": "../real",
        "again": "../real/sub",
        "file.txt": "../real/a.txt",
        "dangling.txt": "../nowhere",
        "z_up": "..",
    }.items():
        (tmp_path / "corpus" / name).symlink_to(target)
    return tmp_path / "corpus"


def test_links_are_followed_once(linked: Path) -> None:
    report = ReadReport()
    assert datas(linked, report=report) == [b"real/sub/b.txt", b"corpus/c.txt", b"real/a.txt"]
    skipped = {reason: [Path(name).name for name in count.first] for reason, count in report.skipped.items()}
    assert skipped["dangling link"][0] == "dangling.txt"
    assert "loop" in skipped["link to a folder that is read already"]
    assert skipped["link to a file that is read already"] == ["a.txt"]


def test_a_folder_named_through_a_link_is_read(linked: Path) -> None:
    (linked.parent / "root").symlink_to("real")
    assert datas(linked.parent / "root") == [b"real/a.txt", b"real/sub/b.txt"]


def test_a_dangling_link_that_is_named_is_an_error(linked: Path) -> None:
    with pytest.raises(UsageError, match="symbolic link is dangling") as error:
        datas(linked / "dangling.txt")
    assert "../nowhere" in error.value.hint


def test_a_pattern_is_expanded_in_order_and_a_literal_name_wins(tmp_path: Path, monkeypatch) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt", "x.md", "[ab].txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    assert datas("?.txt") == [b"a.txt", b"b.txt"]
    assert datas("**/c.txt", "x.md") == [b"sub/c.txt", b"x.md"]
    assert datas("[ab].txt") == [b"[ab].txt"]
    with pytest.raises(UsageError, match="no file matches the pattern") as error:
        datas("*.csv")
    assert error.value.where == "*.csv"


def test_an_absolute_pattern_names_the_same_files(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "a[1]"
    folder.mkdir()
    (folder / "b.txt").write_text("text")
    monkeypatch.chdir(folder)
    pattern = absolute("*.txt")
    monkeypatch.chdir(tmp_path)
    assert datas(pattern) == [b"text"] and absolute("a[1]/b.txt") == str(folder / "b.txt")


def test_standard_input_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "a"}\n{"text": "b"}\n')))
    assert datas("-") == [b"a", b"b"]
    with pytest.raises(UsageError, match="given 2 times"):
        datas("-", "-")
    assert is_stream("-")
    with pytest.raises(UsageError, match="must be a file"):
        TextFiles(paths=("-",)).cache_key()


def test_a_copy_of_standard_input_has_the_name_of_its_content(tmp_path: Path, monkeypatch) -> None:
    copies = []
    for data in (b"one", b"one", b"two"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        copies.append(copy_stream("-", tmp_path / "text"))
        assert copies[-1].read_bytes() == data
    assert copies[0] == copies[1] != copies[2]
    assert sorted((tmp_path / "text").iterdir()) == sorted(set(copies))


def test_a_pipe_in_a_folder_is_skipped_and_counted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "a.txt").write_text("text")
    report = ReadReport()
    assert datas(tmp_path, report=report) == [b"text"] == datas(f"{tmp_path}/*")
    assert report.skipped["neither file nor folder"].first == [str(tmp_path / "pipe.txt")]
    assert is_stream(tmp_path / "pipe.txt") and not is_stream(tmp_path)


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a").mkdir()

    def scandir(path: str) -> object:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(BitgolfError, match=r"folder cannot be read .Permission denied"):
        datas(tmp_path / "a")


@pytest.mark.parametrize("name", [b"caf\xe9.txt", b"a\nb.txt", "日本.txt".encode()])
def test_any_file_name_is_read_and_reported(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(b"text")
    (document,) = read_documents([tmp_path])
    assert os.fsencode(document.name).endswith(b"/" + name)
    report = ReadReport()
    report.skip("not text", str(path))
    (line,) = report.lines()[1:]
    line.encode()
    assert "\n" not in line
    assert TextFiles(paths=(str(path),)).cache_key()[0][0] == path.as_posix()


def test_names_are_printed_with_escapes() -> None:
    assert printable("a b\n日本" + os.fsdecode(b"\xe9")) == r"a b\n日本\udce9"


def test_a_report_keeps_the_first_names(tmp_path: Path) -> None:
    report = ReadReport()
    for i in range(5):
        report.skip("not text", f"{i}.bin")
    assert report.lines()[1] == "skipped, not text: 5 (0.bin, 1.bin, 2.bin and 2 more)"
