"""Documents in records: any documents come back from any format and any blocks, and no record is read wrongly."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.errors import BitgolfError, CorruptFileError, UsageError
from bitgolf.text.documents import ReadOptions, ReadReport, read_documents
from bitgolf.text.formats import TextFile, read_file
from bitgolf.text.json_arrays import json_elements
from bitgolf.text.records import split_lines
from helpers.examples import examples
from helpers.text_containers import COMPRESS, blocks_of, tar, zipped

HARD = st.sampled_from(["a\nb", "a\r\nb\n", '"a" b', "a,b\tc", "\\", "]}", '{"text": "a"}', "é🙂\u2028"])
CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
TEXTS = st.lists(HARD | st.text(CHARACTERS, min_size=1), max_size=8)


def as_json_lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def as_json(texts: list[str]) -> bytes:
    return json.dumps([{"text": text, "more": [1.5, {}]} for text in texts]).encode()


def as_table(texts: list[str], delimiter: str = ",") -> bytes:
    handle = io.StringIO(newline="")
    rows = csv.writer(handle, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    rows.writerows([["id", "text"], *(["1", text] for text in texts)])
    return handle.getvalue().encode()


WRITERS: dict[str, Callable[[list[str]], bytes]] = {
    ".jsonl": as_json_lines,
    ".NDJSON": as_json_lines,
    ".json": as_json,
    ".csv": as_table,
    ".tsv": lambda texts: as_table(texts, "\t"),
}


def read(name: str, data: bytes, size: int = 1 << 16, options: ReadOptions | None = None) -> list[str]:
    file = TextFile(name, blocks_of(data, size), named=True)
    found = read_file(file, options or ReadOptions(), ReadReport())
    return [document.data.decode("utf-8", "surrogatepass") for document in found]


def read_path(path: Path, report: ReadReport | None = None, **options: Any) -> list[str]:
    return [d.data.decode() for d in read_documents([path], ReadOptions(**options), report)]


@pytest.mark.parametrize("suffix", WRITERS)
@settings(deadline=None)
@given(texts=TEXTS, size=st.integers(1, 50), pack=st.sampled_from(["", *COMPRESS]))
def test_any_documents_come_back_from_any_blocks(suffix: str, texts: list[str], size: int, pack: str) -> None:
    data = WRITERS[suffix](texts)
    data = COMPRESS[pack](data) if pack else data
    assert read(f"a{suffix}{pack}", data, size) == texts


@settings(deadline=None, max_examples=examples(50))
@given(texts=TEXTS, size=st.integers(1, 5000), write=st.sampled_from([tar, zipped]))
def test_any_documents_come_back_from_archives(texts: list[str], size: int, write: Callable[..., bytes]) -> None:
    data = write({f"{i}/a{suffix}": make(texts) for i, (suffix, make) in enumerate(WRITERS.items())})
    assert read("a", data, size) == texts * len(WRITERS)


@settings(deadline=None, max_examples=examples(30))
@given(st.lists(st.text("ab\n é🙂", max_size=90_000), min_size=1, max_size=3), st.integers(1000, 200_000))
def test_a_long_text_is_split_alike_for_any_blocks(parts: list[str], size: int) -> None:
    data = ("".join(parts) * 20 + "end").encode()
    assert "".join(read("a.txt", data, size)) == data.decode()
    assert read("a.txt", data, size) == read("a.txt", data, len(data))


JSON = st.recursive(st.none() | st.integers() | st.text() | st.floats(allow_nan=False), st.lists, max_leaves=8)


@given(st.lists(JSON, max_size=8), st.data())
def test_elements_of_an_array_are_those_of_the_whole(values: list[Any], data: st.DataObject) -> None:
    indent, ascii_only = data.draw(st.sampled_from([None, 0, 2])), data.draw(st.booleans())
    written = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert list(json_elements(blocks_of(written, data.draw(st.integers(1, 9))), "a")) == values


@given(st.lists(st.binary(max_size=6)))
def test_lines_are_those_of_the_whole(blocks: list[bytes]) -> None:
    assert list(split_lines(blocks)) == b"".join(blocks).split(b"\n")


# ---- keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_the_key_is_named_or_guessed_and_reported(suffix: str, tmp_path: Path) -> None:
    path, report = tmp_path / f"a{suffix}", ReadReport()
    rows = [{"content": "a", "body": "b"}, {"content": "c", "body": "d"}]
    table = "content,body\na,b\nc,d\n"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text({".jsonl": lines, ".json": json.dumps(rows), ".csv": table}[suffix])
    assert read_path(path, report) == ["a", "c"]
    assert {key: count.first for key, count in report.guessed_keys.items()} == {"content": [path.as_posix()]}
    report = ReadReport()
    assert read_path(path, report, key="body") == ["b", "d"] and report.guessed_keys == {}
    path.write_text(path.read_text().replace("body", "text"))
    assert read_path(path) == ["b", "d"]
    path.write_text(path.read_text().replace("text", "x").replace("content", "y"))
    with pytest.raises(BitgolfError, match=r"'text' or 'content', got the keys 'y', 'x'") as error:
        read_path(path)
    assert "--key" in error.value.hint and error.value.where.startswith(path.as_posix())
    with pytest.raises(BitgolfError, match=r"'z'.* is missing") as error:
        read_path(path, key="z")
    assert "'y', 'x'" in error.value.hint


@pytest.mark.parametrize("value", ['{"text": null}', '{"other": "a"}'])
def test_null_and_missing_are_errors_or_skipped_and_counted(value: str, tmp_path: Path) -> None:
    path, report = tmp_path / "a.jsonl", ReadReport()
    path.write_text('{"text": "a"}\n' + value + '\n{"text": "b"}\n')
    with pytest.raises(BitgolfError, match=r"'text' is (null|missing)") as error:
        read_path(path)
    assert error.value.where == f"{path.as_posix()}:2" and "--skip-null" in error.value.hint
    assert read_path(path, report, skip_null=True) == ["a", "b"]
    assert report.skipped["no text under 'text'"].first == [f"{path.as_posix()}:2"]
    path.write_text('{"text": "a"}\n{"text": 7}\n')
    with pytest.raises(BitgolfError, match="'text' is a number"):
        read_path(path, skip_null=True)


def test_a_key_without_effect_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UsageError, match="--key body has no effect"):
        read_path(tmp_path, key="body")


def test_strings_are_records_too_but_not_mixed_with_objects() -> None:
    assert read("a.json", b'["a", "", "b"]') == ["a", "b"] == read("a.jsonl", b'"a"\n"b"\n')
    for data in (b'["a", {"text": "b"}]', b'[{"text": "b"}, "a"]'):
        with pytest.raises(BitgolfError, match="not a JSON object"):
            read("a.json", data)
    with pytest.raises(BitgolfError, match="a string instead of an object"):
        read("a.json", b'["a"]', options=ReadOptions(key="body"))


# ---- files that are not what they seem -------------------------------------------------------------------------


INVALID = {
    "object.json": (b'{"text": "a"}', "not a JSON array .*begins with '{'"),
    "number.json": (b"[1, 2]", "first element is a number"),
    "empty.json": (b" ", "it is empty"),
    "cut.json": (b'[{"text": "a"}, {"text": "b"}', "end of the file"),
    "cut_in_value.json": (b'[{"text": "a"}, {"te', "element is not JSON"),
    "comma.json": (b'["a",]', "element is not JSON"),
    "after.json": (b'["a"] "b"', "after the end"),
    "separator.json": (b'["a" "b"]', "expected, got '\"'"),
    "bytes.json": (b'["' + b"a" * 99 + b'\xff"]', "not JSON"),
    "deep.json": (b'["a", ' + b"[" * 100_000, "not JSON"),
    "few.csv": (b"id,text\n1\n", "1 columns, but the first row has 2"),
    "many.csv": (b"id,text\n1,a,b\n", "3 columns, but the first row has 2"),
    "quote.csv": (b'id,text\n1,"a" b\n', "not valid CSV"),
    "open.csv": (b'id,text\n1,"a\n', "not valid CSV"),
    "twice.csv": (b"text,text\n1,a\n", "is there 2 times"),
    "fake.parquet": (b"text", "not a Parquet file"),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_file_is_an_error_with_its_place(name: str, tmp_path: Path) -> None:
    data, message = INVALID[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BitgolfError, match=message) as error:
        read_path(tmp_path / name)
    assert error.value.where.startswith((tmp_path / name).as_posix())


@pytest.mark.parametrize("name", ["object.json", "number.json", "fake.parquet"])
def test_json_of_another_form_is_skipped_and_counted_in_a_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(INVALID[name][0])
    (tmp_path / "z.txt").write_bytes(b"text")
    report = ReadReport()
    assert read_path(tmp_path, report) == ["text"] and report.formats == {"text": 1}
    assert [count.first for count in report.skipped.values()] == [[(tmp_path / name).as_posix()]]


def test_a_csv_keeps_bytes_that_are_not_utf_8_and_drops_the_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbftext,id\r\n"long enough, caf\xe9\r\n",1\r\n')
    assert [d.data for d in read_documents([tmp_path])] == [b"long enough, caf\xe9\r\n"]


@pytest.mark.parametrize(
    ("data", "expected", "format"),
    [
        (b'{"text": "a"}\n{"text": "b"}\n', ["a", "b"], "jsonl"),
        (b'{"text": "a"}', ["a"], "jsonl"),
        (b' [{"text": "a"},\n "b"]'.replace(b'"b"', b'{"text": "b"}'), ["a", "b"], "json"),
        (b'{"name": "package"}\n{}\n', ['{"name": "package"}\n{}\n'], "text"),
        (b"{\n not JSON", ["{\n not JSON"], "text"),
        (b"[1] a note", ["[1] a note"], "text"),
    ],
)
def test_a_file_without_suffix_is_read_by_its_content(data: bytes, expected: list[str], format: str) -> None:
    report = ReadReport()
    found = read_file(TextFile("a", [data], named=True), ReadOptions(), report)
    assert [d.data.decode() for d in found] == expected and report.formats == {format: 1}


def test_parquet_is_read_by_column(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = [f"document {i} 日本" for i in range(300)]
    path, report = tmp_path / "a.parquet", ReadReport()
    parquet.write_table(arrow.table({"id": range(300), "content": texts}), path, row_group_size=70)
    assert read_path(path, report) == texts
    assert report.formats == {"parquet": 1} and "content" in report.guessed_keys
    path.rename(tmp_path / "b.parquet.zst").write_bytes(COMPRESS[".zst"]((tmp_path / "b.parquet.zst").read_bytes()))
    assert read_path(tmp_path) == texts
    parquet.write_table(arrow.table({"text": ["a", None, "", "b"]}), path)
    with pytest.raises(BitgolfError, match="'text' is null"):
        read_path(path)
    assert read_path(path, skip_null=True) == ["a", "b"]
    with pytest.raises(BitgolfError, match=r"'id' is a number|column 'id' is missing"):
        read_path(path, key="id")
    path.write_bytes(b"PAR1" + b"\0" * 100 + b"PAR1")
    with pytest.raises(CorruptFileError, match="Parquet file cannot be read"):
        read_path(path)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"\0" * 100 + b"PAR1")
    with pytest.raises(BitgolfError, match="pyarrow") as error:
        read_path(tmp_path / "a.parquet")
    assert "bitgolf[parquet]" in error.value.hint


# ---- linear time -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITERS)
def test_the_time_of_a_long_document_is_linear(suffix: str) -> None:
    """Eight times the length takes about eight times as long; it took sixty times as long with quadratic readers."""

    def seconds(megabytes: int) -> float:
        data = WRITERS[suffix](["the cat sat on a mat " * (megabytes * 1_000_000 // 21)])
        started = time.process_time()
        assert len(read(f"a{suffix}", data)) == 1
        return time.process_time() - started

    seconds(1)
    assert any(seconds(32) < 24 * seconds(4) for _ in range(3)), "other programs may disturb one measurement, not three"
