"""Tests of the documents of a compression round trip: whole, bounded, and only those that decode."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from bitgolf.errors import BitgolfError
from bitgolf.score.coding.roundtrip import CompressionRoundTrip, decoded_documents
from bitgolf.score.result import CompressResult, DecompressResult
from bitgolf.score.text import TokenizedText, append_final_bos
from bitgolf.text.caseops import CAPNEXT
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.trainers import CaseOpsBPE

TEXTS = [b"the first Document", b"a short one", b"The third document, which is the longest"]


def test_documents_decode_until_the_limit() -> None:
    tokenizer = tokenizer_from_bytes(CaseOpsBPE(vocab=300).train(text * 20 for text in TEXTS))
    cut = [tokenizer.piece_bytes.index(CAPNEXT)]  # an operator without a letter
    documents = [tokenizer.encode(TEXTS[0]), cut, *map(tokenizer.encode, TEXTS[1:])]
    ids = np.array(list(itertools.chain.from_iterable([tokenizer.bos, *document] for document in documents)))
    text = TokenizedText(append_final_bos(ids, tokenizer.bos), 0, tokenizer.bos)
    assert list(decoded_documents(text, tokenizer)) == TEXTS
    assert list(decoded_documents(text, tokenizer, len(TEXTS[0]) + 1)) == TEXTS[:2]
    assert list(decoded_documents(text, tokenizer, len(TEXTS[0]))) == TEXTS[:1]


def compress(source: Path, target: Path) -> CompressResult:
    target.write_bytes(source.read_bytes()[::-1])
    size = source.stat().st_size
    return CompressResult(
        bytes_in=size,
        bytes_out=size,
        bytes_stored=0,
        bpb_coded=8.0,
        bpb_predicted=8.0,
        method="m",
        arithmetic="native",
        seconds=0.0,
    )


def decompress(source: Path, target: Path) -> DecompressResult:
    target.write_bytes(source.read_bytes()[::-1])
    return DecompressResult(bytes_in=1, bytes_out=1, documents=[1], seconds=0.0)


def test_the_document_nearest_in_size_is_compressed_and_compared(tmp_path: Path) -> None:
    result = CompressionRoundTrip(document_bytes=12).run(tmp_path, TEXTS, compress, decompress)
    assert (tmp_path / "roundtrip.txt").read_bytes() == TEXTS[1] and result.restored and result.bytes_in == 11
    assert result.general_compressors_bytes == sum(map(len, TEXTS))

    def wrong(source: Path, target: Path) -> DecompressResult:
        target.write_bytes(b"other")
        return DecompressResult(bytes_in=1, bytes_out=1, documents=[1], seconds=0.0)

    with pytest.raises(BitgolfError, match="differs from the original"):
        CompressionRoundTrip().run(tmp_path, TEXTS, compress, wrong)
