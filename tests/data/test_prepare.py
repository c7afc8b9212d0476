"""Tests of prepared folders: the manifest agrees with the files, and `verify_data` finds every disagreement."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bitgolf.data.manifest import Manifest, load_manifest
from bitgolf.data.prepare import prepare_data
from bitgolf.data.shards import TokenStream, find_shards, read_shard, write_shard
from bitgolf.data.verify import verify_data
from bitgolf.errors import BitgolfError, CorruptFileError, FormatVersionError
from bitgolf.text.documents import Document
from bitgolf.tokens.loading import load_tokenizer, tokenizer_from_bytes
from bitgolf.tokens.tokenizer import Tokenizer

TEXTS = [b"def f(x):\n    return x + %d\n" % i for i in range(40)] + ["bad \u2581 caf\u00e9".encode() + b"\xff", b" "]
TRAIN = [Document(f"t{i}", text) for i, text in enumerate(TEXTS)]
VAL = [Document(f"v{i}", b"class C%d:\n\tpass" % i) for i in range(5)]


@pytest.fixture
def folder(tmp_path: Path, small_tokenizer: Tokenizer) -> Path:
    prepare_data(iter(TRAIN), iter(VAL), small_tokenizer, tmp_path, shard_tokens=100)
    return tmp_path


def decoded(folder: Path, split: str, tokenizer: Tokenizer) -> list[bytes]:
    stream = TokenStream(find_shards(folder, split))
    ids, starts = stream.window(0, len(stream)), stream.document_starts(tokenizer.bos)
    return [tokenizer.decode(document) for document in np.split(ids, starts[1:])]


def test_the_shards_are_the_documents_each_after_a_bos(folder: Path, small_tokenizer: Tokenizer) -> None:
    assert decoded(folder, "train", small_tokenizer) == TEXTS
    assert decoded(folder, "val", small_tokenizer) == [document.data for document in VAL]
    paths = find_shards(folder, "train")
    assert len(paths) > 2 and {len(read_shard(path)) for path in paths[:-1]} == {100}
    assert verify_data(folder) == []


def test_the_manifest_counts_bytes_and_tokens(folder: Path, small_tokenizer: Tokenizer) -> None:
    manifest = load_manifest(folder)
    assert manifest.tokenizer == small_tokenizer.digest and (manifest.vocab, manifest.bos) == (400, 1)
    for split, documents in ((manifest.train, TRAIN), (manifest.val, VAL)):
        raw = sum(len(document.data) for document in documents)
        assert (split.documents, split.raw_bytes, split.encoded_bytes, split.lost_bytes) == (
            len(documents),
            raw,
            raw,
            0,
        )
        assert split.tokens == sum(shard.tokens for shard in split.shards)
    assert json.loads((folder / "manifest.json").read_text()) == json.loads(json.dumps(manifest.to_json()))


def test_preparing_again_leaves_nothing_of_the_first_time(folder: Path, small_tokenizer: Tokenizer) -> None:
    prepare_data(TRAIN[:2], VAL[:1], small_tokenizer, folder)
    assert len(find_shards(folder, "train")) == 1
    assert load_manifest(folder).train.documents == 2
    assert verify_data(folder) == []


def test_the_challenges_way_of_encoding_counts_what_it_loses(tmp_path: Path, shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "data" / "tokenizers" / "fineweb_1024_bpe.model")
    manifest = prepare_data(
        [Document("a", b"two\nlines")], [Document("b", b"two  words")], tokenizer, tmp_path, use_own_normaliser=True
    )
    assert (manifest.train.lost_bytes, manifest.train.encoded_bytes) == (1, 9)
    assert (manifest.val.lost_bytes, manifest.val.encoded_bytes, manifest.val.raw_bytes) == (1, 9, 10)
    assert decoded(tmp_path, "train", tokenizer) == [b"two lines"]
    exact = prepare_data([Document("a", b"two\nlines")], [Document("b", b"two  words")], tokenizer, tmp_path)
    assert (exact.val.lost_bytes, exact.val.encoded_bytes) == (0, 10)


def test_an_overlap_is_refused_and_leaves_no_manifest(folder: Path, small_tokenizer: Tokenizer) -> None:
    with pytest.raises(BitgolfError, match="1 of 6 validation documents"):
        prepare_data(TRAIN, [*VAL, Document("leak", TEXTS[3] + b"\n")], small_tokenizer, folder)
    with pytest.raises(BitgolfError, match="no manifest"):
        load_manifest(folder)


def test_an_empty_split_and_a_model_without_bos_are_refused(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    with pytest.raises(BitgolfError, match="no documents"):
        prepare_data(TRAIN, [], small_tokenizer, tmp_path)
    without = tokenizer_from_bytes(small_tokenizer.serialized.replace(b"\x0a\x03<s>", b"\x0a\x03<t>"))
    with pytest.raises(BitgolfError, match="need a BOS"):
        prepare_data(TRAIN, VAL, without, tmp_path)


@pytest.mark.parametrize("text", ["", "{}", '{"tokenizer": 1}', "nonsense"])
def test_a_damaged_manifest_is_named(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(CorruptFileError, match="not a manifest"):
        load_manifest(folder)
    assert [finding.rule for finding in verify_data(folder)] == ["manifest"]


@pytest.mark.parametrize("number", [2, 4])
def test_a_manifest_of_another_format_is_refused(folder: Path, number: int) -> None:
    """Regardless of its other fields, whose names may differ between formats."""
    (folder / "manifest.json").write_text(json.dumps({"format": number, "digest": "x"}))
    with pytest.raises(FormatVersionError, match=f"the data manifest has format {number}; this version reads format 3"):
        load_manifest(folder)


def swap(folder: Path, **changes: int) -> None:
    manifest = load_manifest(folder).to_json()
    manifest["train"] |= changes
    (folder / "manifest.json").write_text(json.dumps(manifest))


def alter(path: Path, at: int, value: int) -> None:
    ids = np.array(read_shard(path))
    ids[at] = value
    write_shard(path, ids)


DAMAGE: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "other tokenizer": (
        lambda f: (f / "tokenizer.model").write_bytes((f / "tokenizer.model").read_bytes() + b"\x1a\x00"),
        {"tokenizer"},
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.model").unlink(), {"manifest"}),
    "shard cut short": (
        lambda f: (f / "train_000001.bin").write_bytes((f / "train_000001.bin").read_bytes()[:-2]),
        {"shards"},
    ),
    "shard missing": (lambda f: (f / "train_000001.bin").unlink(), {"shards", "counts"}),
    "shard too many": (lambda f: write_shard(f / "train_000099.bin", np.array([1, 5])), {"shards", "counts"}),
    "first bos gone": (lambda f: alter(f / "val_000000.bin", 0, 5), {"digest", "document-starts", "counts"}),
    "token out of range": (lambda f: alter(f / "train_000000.bin", 3, 400), {"shards"}),
    "fingerprints lost": (lambda f: (f / "val_documents.fp").unlink(), {"shards", "overlap"}),
    "fingerprints changed": (lambda f: (f / "val_documents.fp").write_bytes(bytes(40)), {"digest"}),
    "validation in training": (
        lambda f: (f / "val_documents.fp").write_bytes((f / "train_documents.fp").read_bytes()[:40]),
        {"digest", "overlap"},
    ),
    "bytes misstated": (lambda f: swap(f, encoded_bytes=1), {"counts"}),
    "documents misstated": (lambda f: swap(f, documents=1), {"digest", "counts"}),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_check_sees(name: str, folder: Path) -> None:
    damage, rules = DAMAGE[name]
    damage(folder)
    findings = verify_data(folder)
    assert {finding.rule for finding in findings} == rules
    assert {finding.severity for finding in findings} == {"error"}


def test_published_shards_are_checked_without_a_manifest(tmp_path: Path) -> None:
    write_shard(tmp_path / "fineweb_train_000000.bin", np.array([1, 5, 6, 1, 7]))
    write_shard(tmp_path / "fineweb_val_000000.bin", np.array([1, 8, 1, 9]))
    notes = [("no-manifest", "note"), ("no-tokenizer", "note")]
    assert [(finding.rule, finding.severity) for finding in verify_data(tmp_path)] == notes
    write_shard(tmp_path / "fineweb_val_000000.bin", np.array([1, 8, 1, 7]))
    assert [finding.severity for finding in verify_data(tmp_path)] == ["note", "note", "error"]
    assert "1 of 2 validation documents" in verify_data(tmp_path)[2].message
    write_shard(tmp_path / "fineweb_val_000000.bin", np.array([8, 1]))
    assert [finding.rule for finding in verify_data(tmp_path)] == ["no-manifest", "no-tokenizer", "document-starts"]


def test_a_manifest_takes_nothing_that_it_does_not_know(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**load_manifest(folder).to_json(), "extra": 1}))
    with pytest.raises(CorruptFileError, match="extra"):
        load_manifest(folder)
    assert set(Manifest.__struct_fields__) == {"tokenizer", "vocab", "bos", "train", "val", "shards_folder", "format"}
