"""Tests of the overlap check: a validation document among the training documents is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.data.overlap import (
    check_overlap,
    document_fingerprints,
    read_fingerprints,
    stream_fingerprints,
    write_fingerprints,
)
from bitgolf.data.shards import TokenStream, write_shard
from bitgolf.errors import BitgolfError, CorruptFileError


def test_an_overlap_is_counted_and_placed() -> None:
    train = document_fingerprints([b"a", b"b", b"c", b"b \n", b"d", b"e"])
    check_overlap(train, document_fingerprints([b"x", b"y"]))
    with pytest.raises(BitgolfError) as error:
        check_overlap(train, document_fingerprints([b"x", b"e", b"b"]), where="folder")
    assert "2 of 3 validation documents" in error.value.message
    assert (
        "training document 1 (validation document 2), 3 (validation document 2), 5 (validation document 1)"
        in error.value.message
    )
    assert error.value.where == "folder"


def test_a_few_repeated_pages_of_a_published_set_are_a_warning() -> None:
    train = document_fingerprints(b"%d" % i for i in range(1000))
    for repeated, share in ((1, 0.01), (2, 0.02)):
        val = document_fingerprints(
            [*(b"%d" % i for i in range(repeated)), *(b"v%d" % i for i in range(100 - repeated))]
        )
        found = check_overlap(train, val, tolerated=share)
        assert found and found.severity == "warning" and found.message.startswith(f"{repeated} of 100 validation")
        with pytest.raises(BitgolfError, match=f"{repeated} of 100 validation documents"):
            check_overlap(train, val, tolerated=share - 0.001)
    assert check_overlap(train, document_fingerprints([b"x"]), tolerated=0.01) is None


@settings(deadline=None)
@given(
    st.sets(st.text(min_size=1, alphabet="abcde"), max_size=12),
    st.sets(st.text(min_size=1, alphabet="abcde"), max_size=12),
)
def test_it_is_refused_exactly_where_the_sets_meet(train: set[str], val: set[str]) -> None:
    sides = [document_fingerprints(text.encode() for text in sorted(side)) for side in (train, val)]
    if train & val:
        with pytest.raises(BitgolfError, match=f"{len(train & val)} of {len(val)} validation"):
            check_overlap(*sides)
    else:
        check_overlap(*sides)


def stream(folder: Path, *shards: list[int]) -> TokenStream:
    for i, ids in enumerate(shards):
        write_shard(folder / f"s{i}.bin", np.array(ids))
    return TokenStream([folder / f"s{i}.bin" for i in range(len(shards))])


def test_documents_in_shards_are_cut_at_bos_and_over_the_shards_ends(tmp_path: Path) -> None:
    train = stream_fingerprints(stream(tmp_path, [9, 9, 1, 5, 6], [7, 1, 8, 1]), bos=1)
    assert len(train) == 3
    same = stream_fingerprints(stream(tmp_path, [1, 5, 6, 7]), bos=1)
    assert same.tolist() == train[:1].tolist()
    other = stream_fingerprints(stream(tmp_path, [1, 5, 6], [1, 7, 6, 5], [1, 5, 6, 7, 2]), bos=1)
    assert not set(other.tolist()) & set(train.tolist())
    assert len(stream_fingerprints(stream(tmp_path, [5, 6]), bos=1)) == 0


def test_fingerprints_take_8_bytes_each_in_their_file(tmp_path: Path) -> None:
    path = tmp_path / "a.fp"
    values = document_fingerprints([b"a", b"b"])
    write_fingerprints(path, values)
    assert path.stat().st_size == 16
    assert read_fingerprints(path).tolist() == values.tolist()
    path.write_bytes(b"123")
    with pytest.raises(CorruptFileError, match="multiple of 8 bytes, got 3 bytes"):
        read_fingerprints(path)
    with pytest.raises(BitgolfError, match="cannot be read"):
        read_fingerprints(tmp_path / "none")
