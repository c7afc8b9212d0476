"""Tests of byte sidecars: equal to our counts, different from them, of another length, missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitgolf.data import sidecar
from bitgolf.data.shard_folder import inspect_split, open_shard_folder
from bitgolf.data.shards import TokenStream, find_shards, write_shard
from bitgolf.errors import CorruptFileError
from bitgolf.report.log import RunLog
from bitgolf.tokens.tokenizer import Tokenizer

TEXTS = [b"def f(x):", "caf\u00e9 \u4e2d".encode(), b"return x", b"class C: pass"]


def write_counted(folder: Path, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Write two validation shards and their sidecars by our own counts; returns tokens and counts of all."""
    (folder / "tokenizer.model").write_bytes(tokenizer.serialized)
    ids = np.concatenate([[tokenizer.bos, *tokenizer.encode(text)] for text in TEXTS])
    counts = tokenizer.count_bytes(ids)
    for i, part in enumerate(np.split(np.arange(len(ids)), [12])):
        write_shard(folder / f"fineweb_val_{i:06d}.bin", ids[part])
        write_shard(folder / f"fineweb_val_bytes_{i:06d}.bin", counts[part])
    return ids, counts


@pytest.mark.parametrize("block", [1, 1 << 22])
def test_an_equal_sidecar_is_a_note(
    tmp_path: Path, small_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(sidecar, "_BLOCK_TOKENS", block)
    _, counts = write_counted(tmp_path, small_tokenizer)
    split = inspect_split(open_shard_folder(tmp_path), "val", RunLog(quiet=True))
    assert split.counts.sidecar_bytes == split.counts.encoded_bytes == counts.sum() == sum(map(len, TEXTS))
    (finding,) = split.findings
    assert finding.severity == "note" and f"agrees with the tokens: {counts.sum():,} bytes" in finding.message


@pytest.mark.parametrize("block", [1, 1 << 22])
def test_a_different_sidecar_is_explained_and_not_used(
    tmp_path: Path, small_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """One character of two byte tokens is counted on its last token, and two documents count a removed byte."""
    monkeypatch.setattr(sidecar, "_BLOCK_TOKENS", block)
    ids, counts = write_counted(tmp_path, small_tokenizer)
    first = int(np.flatnonzero([small_tokenizer.piece_bytes[i] == b"\xe4" for i in ids])[0])
    published = counts.copy()
    published[first : first + 3] = 0, 0, 3
    published[[1, -1]] += 1
    write_shard(tmp_path / "fineweb_val_bytes_000000.bin", published[:12])
    write_shard(tmp_path / "fineweb_val_bytes_000001.bin", published[12:])
    split = inspect_split(open_shard_folder(tmp_path), "val", RunLog(quiet=True))
    total = sum(map(len, TEXTS))
    assert (split.counts.encoded_bytes, split.counts.sidecar_bytes) == (total, total + 2)
    (finding,) = split.findings
    assert finding.severity == "warning"
    assert (
        f"counts {total + 2:,} bytes, the tokens decode to {total:,}: 5 of {len(ids)} tokens differ" in finding.message
    )
    assert "3 are byte tokens (the sidecar counts a character on its last one) and 2 are other" in finding.message
    assert f"documents with another sum: 2. Scores use the {total:,} bytes" in finding.message


def test_a_sidecar_of_another_length_is_refused(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    write_counted(tmp_path, small_tokenizer)
    write_shard(tmp_path / "fineweb_val_bytes_000000.bin", np.ones(11, np.int64))
    with pytest.raises(CorruptFileError, match="has 11 entries for 12 tokens") as error:
        inspect_split(open_shard_folder(tmp_path), "val", RunLog(quiet=True))
    assert "fineweb_val_bytes_000000.bin" in error.value.where


@pytest.mark.parametrize(
    ("gone", "message"),
    [("fineweb_val_bytes_000001.bin", "is missing"), ("fineweb_val_000001.bin", "has no shard of tokens")],
)
def test_each_shard_has_its_sidecar(tmp_path: Path, small_tokenizer: Tokenizer, gone: str, message: str) -> None:
    write_counted(tmp_path, small_tokenizer)
    (tmp_path / gone).unlink()
    with pytest.raises(CorruptFileError, match=f"the byte sidecar {message}") as error:
        inspect_split(open_shard_folder(tmp_path), "val", RunLog(quiet=True))
    assert "fineweb_val_bytes_000001.bin" in error.value.where


def test_blocks_end_at_document_starts() -> None:
    starts = np.array([2, 3, 7, 20])
    assert list(sidecar.document_blocks(starts, 25, 4)) == [(0, 7), (7, 20), (20, 25)]
    assert list(sidecar.document_blocks(starts, 25, 100)) == [(0, 25)]


def test_shards_alone_have_no_sidecar(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    write_counted(tmp_path, small_tokenizer)
    for path in tmp_path.glob("*_bytes_*"):
        path.unlink()
    split = inspect_split(open_shard_folder(tmp_path), "val", RunLog(quiet=True))
    assert split.counts.sidecar_bytes is None and split.findings == []
    assert len(TokenStream(find_shards(tmp_path, "val"))) == split.counts.tokens
