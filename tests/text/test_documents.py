"""Tests of documents: reading of all formats, errors for invalid files, and the split by content."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.config.spec import part
from bitgolf.errors import BitgolfError, CorruptFileError, UsageError
from bitgolf.text.documents import (
    CommandLineText,
    Document,
    PythonStandardLibrary,
    ReadReport,
    TextFiles,
    document_fingerprint,
    python_library,
    read_documents,
    split_long_document,
    train_validation_split,
)

PACK = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}
HOSTILE = "\ufeffnaïve \u2028 line\r\n\x01🙂".encode() + b"\xff\xfe"
CONTENTS = {"empty.txt": b"", "b/photo.png": b"\x89PNG\r\n\x1a\n"}


def datas(*paths: Path) -> list[bytes]:
    return [document.data for document in read_documents(paths)]


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("suffix", [".txt", ".md", ".rst", ".py"])
def test_a_plain_file_is_one_document_byte_for_byte(tmp_path: Path, suffix: str, packing: str) -> None:
    path = tmp_path / f"a{suffix}{packing}"
    path.write_bytes(PACK[packing](HOSTILE))
    assert list(read_documents([path])) == [Document(path.as_posix(), HOSTILE)]
    assert datas(tmp_path) == [HOSTILE]


@pytest.mark.parametrize("packing", PACK)
def test_jsonl_has_a_document_a_line_and_skips_empty_ones(tmp_path: Path, packing: str) -> None:
    texts = ["one\u2028two\x85", "", "three\nlines\n", "\ud800"]
    lines = "\r\n".join(json.dumps({"text": text, "source": 1}) for text in texts) + "\r\n \r\n"
    path = tmp_path / f"a.jsonl{packing}"
    path.write_bytes(PACK[packing](lines.encode()))
    found = list(read_documents([path]))
    assert [d.data for d in found] == [texts[0].encode(), texts[2].encode(), b"\xed\xa0\x80"]
    assert found[1].name == f"{path.as_posix()}:3"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('"a"', "not a JSON object"),
        ('{"txt": "a"}', "not a JSON object"),
        ('{"text": 1}', "not a JSON object"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n\n' + line)
    with pytest.raises(BitgolfError, match=message) as error:
        datas(path)
    assert error.value.where == f"{path.as_posix()}:3"


@pytest.mark.parametrize("packing", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("damage", [lambda packed: packed[:-20], lambda packed: b"no" + packed[2:]])
def test_a_damaged_packed_file_is_an_error_that_names_it(tmp_path: Path, packing: str, damage) -> None:
    path = tmp_path / f"a.txt{packing}"
    path.write_bytes(damage(PACK[packing](bytes(range(1, 128)) * 1800)))
    with pytest.raises(CorruptFileError, match="cannot be decompressed") as error:
        datas(path)
    assert error.value.where == str(path)


def test_zstd_frames_one_after_the_other_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstandard.compress(b"one ") + zstandard.compress(b"two"))
    assert datas(path) == [b"one two"]


def test_a_folder_is_read_in_order_without_hidden_files_and_files_that_are_not_text(tmp_path: Path) -> None:
    for name in (
        "b/z.txt",
        "b/a.md",
        "a.py",
        ".hidden.txt",
        ".git/x.txt",
        "b/photo.png",
        "c.c",
        "empty.txt",
        "d.TXT",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(CONTENTS.get(name, name.encode()))
    report = ReadReport()
    found = [document.data for document in read_documents([tmp_path], report=report)]
    assert found == [b"a.py", b"b/a.md", b"b/z.txt", b"c.c", b"d.TXT"]
    assert report.documents == 5 and report.files == 6 and report.formats == {"text": 6}
    assert {reason: skipped.count for reason, skipped in report.skipped.items()} == {
        "hidden": 2,
        "not text": 1,
        "empty document": 1,
    }
    assert report.skipped["not text"].first == [(tmp_path / "b/photo.png").as_posix()]
    assert datas(tmp_path / ".hidden.txt") == [b".hidden.txt"]


def test_a_missing_path_and_an_empty_folder_are_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file") as error:
        datas(tmp_path / "nowhere")
    assert error.value.where.endswith("nowhere")
    with pytest.raises(UsageError, match="no documents"):
        datas(tmp_path)
    with pytest.raises(UsageError, match="no documents"):
        datas()


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([b"a", b"\n", b"\n\n", "🙂".encode(), b"\xff"]), max_size=200).map(b"".join),
    st.integers(4, 40),
)
def test_cutting_loses_nothing_and_keeps_the_limit(data: bytes, longest: int) -> None:
    pieces = list(split_long_document(data, longest))
    assert b"".join(pieces) == data
    assert all(len(piece) <= longest for piece in pieces)
    assert all(len(piece) >= longest // 2 - 3 for piece in pieces[:-1])


def test_a_long_file_is_cut_after_empty_lines_then_lines_then_between_characters(tmp_path: Path) -> None:
    assert list(split_long_document(b"first\n\ntwo\nthree\nfour", 10)) == [b"first\n\n", b"two\nthree\n", b"four"]
    assert list(split_long_document(b"a\n\nb\n" + b"c" * 10, 10)) == [b"a\n\nb\nccccc", b"ccccc"]
    assert list(split_long_document("é".encode() * 5, 5)) == ["éé".encode(), "éé".encode(), "é".encode()]
    (tmp_path / "a.txt").write_bytes(b"word " * 20_000)
    names = [document.name.rpartition("/")[2] for document in read_documents([tmp_path])]
    assert names == ["a.txt#0", "a.txt#1"]


def test_the_python_library_is_its_own_files_in_order_without_tests() -> None:
    documents = list(python_library())
    names = [document.name for document in documents]
    assert names == sorted(names)
    assert {"json/decoder.py", "os.py"} <= set(names)
    assert not [n for n in names if {"test", "tests", "idle_test", "site-packages"} & set(n.split("/"))]
    assert 5_000_000 < sum(len(document.data) for document in documents) < 30_000_000


def test_a_fingerprint_is_of_the_words() -> None:
    assert document_fingerprint(b"one  two\r\n") == document_fingerprint(b" one\ntwo")
    assert len({document_fingerprint(text) for text in (b"one two", b"onetwo", b"One two", b"")}) == 4


VARIANTS = st.sampled_from([b"a b", b"a  b", b" a b", b"a\nb", b"c", b"c\n", b"\tc"])
texts = st.lists(st.binary(max_size=8) | VARIANTS, min_size=2, max_size=40).filter(
    lambda d: len({document_fingerprint(x) for x in d}) > 1
)


@settings(deadline=None)
@given(texts, st.floats(0.01, 0.99), st.randoms())
def test_a_split_is_of_distinct_documents_by_content_alone(data: list[bytes], fraction: float, random) -> None:
    documents = [Document(str(i), text) for i, text in enumerate(data)]
    train, val = train_validation_split(documents, fraction)
    assert sorted(d.data for d in (*train, *val)) == sorted(set(data))
    keys = [{document_fingerprint(d.data) for d in side} for side in (train, val)]
    assert train and val and not keys[0] & keys[1]
    shuffled = random.sample(documents, len(documents))
    assert {document_fingerprint(d.data) for d in train_validation_split(shuffled, fraction)[1]} == keys[1]


def test_variants_of_white_space_stay_on_one_side_and_equal_bytes_are_dropped_and_counted() -> None:
    documents = [Document(f"{i}{end}", f"{i} a{end}".encode()) for i in range(50) for end in ("", "\n", "", " \n")]
    report = ReadReport()
    sides = train_validation_split(documents, 0.3, report)
    assert report.duplicates == 50 and sum(map(len, sides)) == 150
    assert all(sum(d.data.split() == [b"7", b"a"] for d in side) in (0, 3) for side in sides)


def test_the_held_out_share_is_the_fraction() -> None:
    documents = [Document(str(i), str(i).encode()) for i in range(4000)]
    train, val = train_validation_split(documents, 0.1)
    assert 330 < len(val) < 470
    highest, lowest = max(document_fingerprint(d.data) for d in val), min(document_fingerprint(d.data) for d in train)
    assert int.from_bytes(highest, "big") / 2**64 < 0.1 <= int.from_bytes(lowest, "big") / 2**64


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_a_fraction_outside_of_0_to_1_is_wrong_use(fraction: float) -> None:
    with pytest.raises(UsageError, match="fraction"):
        train_validation_split([Document("a", b"a"), Document("b", b"b")], fraction)


def test_one_document_cannot_be_split() -> None:
    with pytest.raises(BitgolfError, match="1 distinct documents"):
        train_validation_split([Document("a", b"same"), Document("b", b"same\n")])


def test_the_parts_of_a_recipe_give_documents_and_say_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"text")
    source = part(TextFiles, paths=(str(path),))()
    assert [d.data for d in source.documents()] == [b"text"]
    before = source.cache_key()
    path.write_bytes(b"other text")
    assert source.cache_key() != before
    assert next(PythonStandardLibrary().documents()).name == next(python_library()).name
    with pytest.raises(UsageError, match="none was given") as error:
        CommandLineText().documents()
    assert "--text" in error.value.hint
