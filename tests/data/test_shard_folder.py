"""Tests of folders of shards without a manifest, and of shards that were changed after their manifest was written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bitgolf.data import scan
from bitgolf.data.manifest import data_digest, load_manifest, open_split
from bitgolf.data.overlap import document_fingerprints, read_fingerprints, stream_fingerprints
from bitgolf.data.prepare import prepare_data
from bitgolf.data.shard_folder import (
    adopt_shards,
    compare_splits,
    find_tokenizer,
    folder_state,
    inspect_split,
    open_shard_folder,
)
from bitgolf.data.shards import TokenStream, find_shards, read_shard, write_shard
from bitgolf.data.verify import verify_data
from bitgolf.errors import BitgolfError, CorruptFileError, UsageError
from bitgolf.files import file_digest
from bitgolf.report.log import RunLog
from bitgolf.text.caseops import ESC, TITLE
from bitgolf.text.documents import Document
from bitgolf.tokens.caseops_tokenizer import CaseOpsTokenizer
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer
from bitgolf.tokens.tokenizer import Tokenizer
from bitgolf.tokens.trainers import CaseOpsBPE

QUIET = RunLog(quiet=True)
TRAIN = [b"def f(x):\n    return x + %d\n" % i for i in range(40)]
VAL = [b"class C%d:\n\tpass" % i for i in range(5)]


def write_split(folder: Path, split: str, tokenizer: Tokenizer, texts: Sequence[bytes], size: int = 150) -> None:
    """Write the documents as published shards of `size` tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = np.concatenate([[tokenizer.bos, *tokenizer.encode(text)] for text in texts])
    for i, start in enumerate(range(0, len(ids), size)):
        write_shard(folder / f"fineweb_{split}_{i:06d}.bin", ids[start : start + size])


@pytest.fixture
def published(tmp_path: Path, small_tokenizer: Tokenizer) -> Path:
    folder = tmp_path / "published"
    write_split(folder, "train", small_tokenizer, TRAIN)
    write_split(folder, "val", small_tokenizer, VAL)
    (folder / "fineweb_400_bpe.model").write_bytes(small_tokenizer.serialized)
    return folder


@pytest.fixture
def prepared(tmp_path: Path, small_tokenizer: Tokenizer) -> Path:
    train, val = ([Document(str(i), text) for i, text in enumerate(texts)] for texts in (TRAIN, VAL))
    prepare_data(train, val, small_tokenizer, tmp_path / "prepared", shard_tokens=150)
    return tmp_path / "prepared"


def messages(target: Path) -> list[str]:
    events = [json.loads(line) for line in (target / "log.jsonl").read_text().splitlines()]
    return [event["message"] for event in events if event["event"] == "warning"]


@pytest.mark.parametrize("block", [7, 1 << 20])
def test_a_manifest_is_found_from_the_tokens(
    published: Path, small_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(scan, "_BLOCK_TOKENS", block)
    before = {path: path.read_bytes() for path in published.iterdir()}
    adopt_shards(open_shard_folder(published), tmp_path / "run", QUIET)
    manifest = load_manifest(tmp_path / "run")
    assert (manifest.tokenizer, manifest.vocab, manifest.bos) == (small_tokenizer.digest, 400, 1)
    for name, texts in (("train", TRAIN), ("val", VAL)):
        split, stream = manifest.split(name), TokenStream(find_shards(published, name))
        assert (split.documents, split.encoded_bytes) == (len(texts), sum(map(len, texts)))
        assert split.raw_bytes is None and split.lost_bytes is None and split.sidecar_bytes is None
        assert [(s.name, s.tokens, s.digest) for s in split.shards] == [
            (path.name, len(read_shard(path)), file_digest(path)) for path in find_shards(published, name)
        ]
        file = tmp_path / "run" / f"{name}_documents.fp"
        assert read_fingerprints(file).tolist() == stream_fingerprints(stream, 1).tolist()
        opened = open_split(tmp_path / "run", name)
        assert opened.window(0, len(opened)).tolist() == stream.window(0, len(stream)).tolist()
    assert len(manifest.train.shards) > 2 and not list((tmp_path / "run").glob("*.bin"))
    assert before == {path: path.read_bytes() for path in published.iterdir()}
    assert verify_data(tmp_path / "run") == []


def test_the_prepared_data_does_not_depend_on_where_the_shards_lie(published: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(published, tmp_path / "moved")
    for folder, target in ((published, "a"), (moved, "b")):
        adopt_shards(open_shard_folder(folder), tmp_path / target, QUIET)
    assert data_digest(tmp_path / "a") == data_digest(tmp_path / "b")
    assert (tmp_path / "a" / "manifest.json").read_bytes() != (tmp_path / "b" / "manifest.json").read_bytes()


def test_bytes_with_case_operators_are_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of an operator in the text, and of one that is encoded as byte tokens: both depend on their neighbours."""
    monkeypatch.setattr(scan, "_BLOCK_TOKENS", 5)
    texts = [b"The NASA iPhone", b"plain", b"an operator: " + TITLE + b" and " + ESC + b" A", "é Ü".encode()]
    tokenizer = tokenizer_from_bytes(CaseOpsBPE(vocab=300).train(text * 20 for text in texts))
    assert isinstance(tokenizer, CaseOpsTokenizer)
    write_split(tmp_path, "train", tokenizer, texts, size=11)
    as_bytes = [int(np.flatnonzero([piece == bytes([b]) for piece in tokenizer.piece_bytes])[-1]) for b in TITLE]
    letter = int(np.flatnonzero([piece == b"a" for piece in tokenizer.piece_bytes])[0])
    write_shard(tmp_path / "fineweb_train_999999.bin", np.array([tokenizer.bos, *as_bytes, letter]))
    split = scan.scan_split("train", find_shards(tmp_path, "train"), tokenizer, QUIET)
    assert split.encoded_bytes == sum(map(len, texts)) + len(b"A")
    assert split.encoded_bytes != int(tokenizer.byte_lengths[split.stream.window(0, len(split.stream))].sum())


class CountsEnds(SentencePieceTokenizer):
    """A tokenizer that counts one more byte on the last token of a document."""

    def count_bytes(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        counts = super().count_bytes(ids)
        counts[-1:] += 1
        return counts


def test_bytes_that_depend_on_the_context_are_counted_by_document(
    published: Path, small_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_BLOCK_TOKENS", 7)
    split = scan.scan_split("val", find_shards(published, "val"), CountsEnds(small_tokenizer.serialized), QUIET)
    assert split.encoded_bytes == sum(map(len, VAL)) + len(VAL)


def test_a_token_outside_the_vocabulary_is_placed(published: Path) -> None:
    path = find_shards(published, "train")[1]
    ids = np.array(read_shard(path))
    ids[7] = 400
    write_shard(path, ids)
    with pytest.raises(CorruptFileError, match="token 7 has the id 400, but the vocabulary has 400 tokens") as error:
        inspect_split(open_shard_folder(published), "train", QUIET)
    assert error.value.where == str(path) and "use the tokenizer that made these shards" in error.value.hint
    findings = verify_data(published)
    assert [(f.rule, f.severity) for f in findings] == [("no-manifest", "note"), ("shards", "error")]
    assert "token 7" in findings[1].message


def test_big_endian_tokens_are_recognized(published: Path) -> None:
    path = find_shards(published, "train")[0]
    write_shard(path, np.array(read_shard(path)).byteswap())
    with pytest.raises(CorruptFileError) as error:
        inspect_split(open_shard_folder(published), "train", QUIET)
    assert "big-endian" in error.value.hint


def test_shards_without_bos_are_refused(published: Path, small_tokenizer: Tokenizer) -> None:
    write_shard(published / "fineweb_val_000000.bin", small_tokenizer.encode(b"no start"))
    with pytest.raises(BitgolfError, match=r"no val token is BOS \(1\)"):
        inspect_split(open_shard_folder(published), "val", QUIET)


def test_shards_may_begin_within_a_document(published: Path, small_tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = find_shards(published, "train")[0]
    write_shard(path, np.array(read_shard(path))[3:])
    log = RunLog(tmp_path / "log", quiet=True)
    manifest = adopt_shards(open_shard_folder(published), tmp_path / "run", log)
    log.close()
    assert manifest.train.documents == len(TRAIN) - 1
    (message,) = messages(tmp_path / "log")
    assert "train tokens precede the first BOS: they are the end of a document" in message
    assert [(f.rule, f.severity) for f in verify_data(tmp_path / "run")] == [("document-starts", "warning")]


def test_tokens_that_decode_to_nothing_are_counted(published: Path, tmp_path: Path) -> None:
    path = find_shards(published, "val")[0]
    ids = np.array(read_shard(path))
    ids[[3, 5]] = 0  # <unk>
    write_shard(path, ids)
    (finding,) = inspect_split(open_shard_folder(published), "val", QUIET).findings
    assert finding.severity == "warning" and finding.message.startswith(
        "2 val tokens decode to nothing (such as <unk>)"
    )


def test_an_overlap_is_refused_before_anything_is_written(
    published: Path, small_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_split(published, "val", small_tokenizer, [*VAL[:2], TRAIN[3]])
    with pytest.raises(BitgolfError, match="1 of 3 validation documents are among the training documents"):
        adopt_shards(open_shard_folder(published), tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()


def test_a_repeated_page_among_many_is_a_warning(
    published: Path, prepared: Path, small_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """In published sets only; `data make` never writes one."""
    many = [b"class D%d" % i for i in range(100)]
    write_split(published, "val", small_tokenizer, [*many, TRAIN[3]], size=10**6)
    log = RunLog(tmp_path / "run", quiet=True)
    adopt_shards(open_shard_folder(published), tmp_path / "run", log)
    log.close()
    (message,) = messages(tmp_path / "run")
    assert message.startswith("1 of 101 validation documents are among the training documents")
    (finding,) = [f for f in verify_data(published) if f.rule == "overlap"]
    assert finding.severity == "warning" and finding.message == message
    found = [document_fingerprints(texts) for texts in (TRAIN, [*many, TRAIN[3]])]
    with pytest.raises(BitgolfError, match="1 of 101 validation documents"):
        compare_splits(open_shard_folder(prepared), *found)


# ---- the tokenizer --------------------------------------------------------------------------------------------------


def test_the_tokenizer_is_the_only_one_or_the_one_named(published: Path, small_tokenizer: Tokenizer) -> None:
    model = published / "fineweb_400_bpe.model"
    assert find_tokenizer(published) == model
    (published / "other.model").write_bytes(b"")
    with pytest.raises(UsageError, match=r"2 tokenizers \(fineweb_400_bpe.model, other.model\)") as error:
        open_shard_folder(published)
    assert "--tokenizer FILE" in error.value.hint
    assert open_shard_folder(published, model).tokenizer.digest == small_tokenizer.digest
    (published / "tokenizer.model").write_bytes(small_tokenizer.serialized)
    assert find_tokenizer(published) == published / "tokenizer.model"
    for path in published.glob("*.model"):
        path.unlink()
    with pytest.raises(UsageError, match="no tokenizer") as error:
        open_shard_folder(published)
    assert error.value.hint == "--tokenizer FILE names the tokenizer that made the shards"
    (published / "a.tiktoken").write_bytes(b"")
    assert find_tokenizer(published) == published / "a.tiktoken"


def test_a_tokenizer_elsewhere_in_the_published_layout_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "datasets" / "fineweb10B_sp1024"
    folder.mkdir(parents=True)
    (tmp_path / "tokenizers").mkdir()
    (tmp_path / "tokenizers" / "fineweb_1024_bpe.model").write_bytes(b"")
    with pytest.raises(UsageError, match="no tokenizer") as error:
        find_tokenizer(folder)
    assert error.value.hint.endswith("/tokenizers/fineweb_1024_bpe.model")


def test_a_folder_that_is_not_there_is_a_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        open_shard_folder(tmp_path / "nowhere")


def test_a_manifest_of_another_program_is_not_ours(published: Path) -> None:
    (published / "manifest.json").write_text('{"datasets": [{"name": "fineweb10B_sp1024"}]}')
    assert open_shard_folder(published).manifest is None
    (published / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(BitgolfError, match="format 99"):
        open_shard_folder(published)


# ---- folders with a manifest ----------------------------------------------------------------------------------------


def test_a_prepared_folder_keeps_its_counts(prepared: Path, tmp_path: Path) -> None:
    adopted = adopt_shards(open_shard_folder(prepared), tmp_path / "run", QUIET)
    own = load_manifest(prepared)
    assert (adopted.train, adopted.val) == (own.train, own.val)
    assert adopted.shards_folder == str(prepared) and data_digest(tmp_path / "run") == data_digest(prepared)
    again = adopt_shards(open_shard_folder(tmp_path / "run"), tmp_path / "second", QUIET)
    assert again == adopted, "the data of a run is a folder of shards, too"
    assert verify_data(tmp_path / "second") == []


def alter(path: Path) -> None:
    ids = np.array(read_shard(path))
    ids[3] = (ids[3] + 1) % 400
    write_shard(path, ids)


CHANGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a byte": (
        lambda f: alter(f / "train_000001.bin"),
        "has changed since its manifest was written",
        "train_000001.bin",
    ),
    "cut": (
        lambda f: (f / "val_000000.bin").write_bytes((f / "val_000000.bin").read_bytes()[:-2]),
        "too short",
        "val_0",
    ),
    "shorter": (
        lambda f: write_shard(f / "val_000000.bin", np.array([1, 5])),
        "has changed since its manifest was written",
        "val_000000.bin",
    ),
    "missing": (lambda f: (f / "train_000001.bin").unlink(), "cannot be read", "train_000001.bin"),
    "one more": (lambda f: write_shard(f / "train_000009.bin", np.array([1, 5])), "does not list", "train_000009.bin"),
    "fingerprints": (lambda f: (f / "val_documents.fp").write_bytes(bytes(40)), "fingerprints have changed", "val_doc"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_named_before_anything_is_written(name: str, prepared: Path, tmp_path: Path) -> None:
    change, message, where = CHANGES[name]
    change(prepared)
    with pytest.raises(BitgolfError, match=message) as error:
        adopt_shards(open_shard_folder(prepared), tmp_path / "run", QUIET)
    assert where in error.value.where and not (tmp_path / "run").exists()


def test_another_tokenizer_than_that_of_the_manifest_is_refused(prepared: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.model"
    other.write_bytes((prepared / "tokenizer.model").read_bytes() + b"\x1a\x00")
    with pytest.raises(UsageError, match="were made with the tokenizer") as error:
        open_shard_folder(prepared, other)
    assert error.value.hint == "leave --tokenizer out"


def test_a_run_does_not_overwrite_the_shards_that_it_reads(prepared: Path) -> None:
    before = {path: path.read_bytes() for path in prepared.iterdir()}
    with pytest.raises(UsageError, match="are the data of this run"):
        adopt_shards(open_shard_folder(prepared), prepared, QUIET)
    assert before == {path: path.read_bytes() for path in prepared.iterdir()}


def test_a_shard_that_changes_after_it_was_adopted_is_seen(published: Path, tmp_path: Path) -> None:
    adopt_shards(open_shard_folder(published), tmp_path / "run", QUIET)
    write_shard(published / "fineweb_val_000000.bin", np.array([1, 5]))
    with pytest.raises(CorruptFileError, match="2 tokens instead of"):
        open_split(tmp_path / "run", "val")


def test_the_state_of_a_folder_changes_with_its_files(published: Path) -> None:
    before = folder_state(published)
    assert folder_state(published) == before
    path = find_shards(published, "train")[0]
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1000))
    assert folder_state(published) != before
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert folder_state(published) == before
    write_shard(published / "fineweb_train_000099.bin", np.array([1, 5]))
    assert folder_state(published) != before
