"""Inputs of `shared/cases` that failed for users of other programs, or of earlier versions of this one."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import pytest

from bitgolf.errors import BitgolfError
from bitgolf.text.documents import ReadOptions, ReadReport, read_documents


@pytest.fixture
def cases(shared: Path) -> Path:
    if not (shared / "cases").is_dir():
        pytest.skip("needs the folder `shared/cases` beside the checkout")
    return shared / "cases"


def read(path: Path | str, report: ReadReport | None = None, **options: bool | str) -> list[bytes]:
    return [d.data for d in read_documents([path], ReadOptions(**options), report)]  # type: ignore[arg-type]


def test_case_04_other_keys_null_lists_and_strings(cases: Path) -> None:
    folder = cases / "04"
    texts = read(folder / "bare_strings.jsonl")
    assert len(texts) == 60 and read(folder / "content_key.jsonl") == texts
    assert read(folder / "content_key.jsonl", key="content") == texts
    for name, message in (("null_late.jsonl", "'text' is null"), ("list.jsonl", "'text' is an array")):
        with pytest.raises(BitgolfError, match=message) as error:
            read(folder / name)
        assert error.value.where == f"{(folder / name).as_posix()}:41" and error.value.hint
    report = ReadReport()
    assert read(folder / "null_late.jsonl", report, skip_null=True) == texts[:40] + texts[41:]
    assert report.skipped["no text under 'text'"].count == 1


def test_case_12_containers(cases: Path) -> None:
    texts = read(cases / "12" / "corpus.ndjson")
    assert len(texts) == 60
    for name in ("corpus.csv", "corpus.json", "corpus.jsonl.bz2", "corpus.tar.gz", "corpus.zip"):
        assert sorted(read(cases / "12" / name)) == sorted(texts), name
    big = read(cases / "12" / "big" / "c.ndjson")
    assert len(big) == 400 and read(cases / "12/big/c.json") == big == read(cases / "12/big/c.jsonl.bz2")


@pytest.mark.parametrize("name", ["weights.safetensors", "corpus.parquet", "big/c.parquet", "big/corpus.parquet"])
def test_case_12_files_without_text(name: str, cases: Path, tmp_path: Path) -> None:
    with pytest.raises(BitgolfError) as error:
        read(cases / "12" / name)
    assert error.value.where == (cases / "12" / name).as_posix() and error.value.exit_code == 1
    shutil.copyfile(cases / "12/corpus.ndjson", tmp_path / "a.ndjson")
    if name == "weights.safetensors":
        report = ReadReport()
        shutil.copyfile(cases / "12" / name, tmp_path / "weights.safetensors")
        assert len(read(tmp_path, report)) == 60 and report.skipped["not text"].count == 1


def test_case_17_names_and_bytes_that_are_not_utf_8(cases: Path) -> None:
    files = list((cases / "17" / "c").iterdir())
    report = ReadReport()
    assert sorted(read(cases / "17" / "c", report)) == sorted(file.read_bytes() for file in files)
    assert report.files == len(files) == report.documents and report.skipped == {}


def test_case_18_links(cases: Path, tmp_path: Path) -> None:
    """The links are made here: the shared copy holds files with their targets in their place."""
    for name in ("real", "corpus"):
        (tmp_path / name).mkdir()
        for file in (cases / "18" / name).glob("d[0-9]*.txt"):
            shutil.copyfile(file, tmp_path / name / file.name)
    links = {"loop": ".", "more": "../real", "dangling.txt": "../nowhere", "linked_file.txt": "../real/d00.txt"}
    for name, target in links.items():
        (tmp_path / "corpus" / name).symlink_to(target)
    report = ReadReport()
    assert len(read(tmp_path / "corpus", report)) == 60 == report.files
    assert {reason: count.count for reason, count in report.skipped.items()} == {
        "link to a folder that is read already": 1,
        "dangling link": 1,
        "link to a file that is read already": 1,
    }


def test_case_25_a_long_line(cases: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    """Its time is measured in `test_records`."""
    monkeypatch.setattr(sys, "argv", ["mk.py", "4"])
    runpy.run_path(str(cases / "25" / "mk.py"))
    (tmp_path / "line.jsonl").write_text(capsys.readouterr().out)
    (text,) = read(tmp_path / "line.jsonl")
    assert len(text) == 4_000_000 // 21 * 21
