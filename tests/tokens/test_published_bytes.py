"""Tests of the published byte counts: the challenge's table, and for case operators the byte sidecar."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.text.caseops import OPERATORS, encode_case
from bitgolf.text.documents import read_documents
from bitgolf.tokens.caseops_tokenizer import MAGIC, CaseOpsTokenizer
from bitgolf.tokens.loading import load_tokenizer
from helpers.examples import examples

PUBLIC = [
    "fineweb_1024_bpe",
    "fineweb_2048_bpe_no_byte_fallback",
    "fineweb_4096_bpe",
    "fineweb_8192_bpe",
]
CASEOPS = "fineweb_8192_bpe_lossless_caps_caseops_v1_reserved"


@pytest.fixture(scope="session")
def english(shared: Path) -> list[bytes]:
    return [d.data for d in islice(read_documents([shared / "data" / "english.val.jsonl.zst"]), 40)]


@pytest.fixture(scope="session")
def caseops(shared: Path) -> CaseOpsTokenizer:
    tokenizer = load_tokenizer(shared / "data" / "tokenizers" / f"{CASEOPS}.model")
    assert isinstance(tokenizer, CaseOpsTokenizer)
    return tokenizer


# ---- the table -----------------------------------------------------------------------------------------------------


def by_the_table(processor: sentencepiece.SentencePieceProcessor, ids: list[int]) -> Iterator[int]:
    """Specification, 7.2, with SentencePiece alone: the bytes of each token, from it and the one before it."""
    before = -1
    for token in ids:
        boundary = [
            processor.is_control(i) or processor.is_unknown(i) or processor.is_unused(i)
            for i in (token, before)
            if i >= 0
        ]
        piece = processor.id_to_piece(token)
        if boundary[0]:
            yield 0
        elif processor.is_byte(token):
            yield 1
        else:
            real = before >= 0 and not boundary[1] and piece.startswith("▁")
            yield len(piece.removeprefix("▁").encode()) + real
        before = token


@pytest.mark.parametrize("name", PUBLIC)
def test_the_table_on_real_text(name: str, shared: Path, english: list[bytes]) -> None:
    path = shared / "data" / "tokenizers" / f"{name}.model"
    tokenizer, processor = load_tokenizer(path), sentencepiece.SentencePieceProcessor(model_file=str(path))
    for data in english:
        ids = processor.encode(data.decode())
        counts = tokenizer.published_bytes(data)
        assert counts.tolist() == list(by_the_table(processor, ids))
        if tokenizer.byte_fallback:
            assert counts.sum() == len(tokenizer.normalised(data))


# ---- the sidecar ---------------------------------------------------------------------------------------------------


def by_the_sidecar(surfaces: list[str]) -> Iterator[int]:
    """Specification, 7.5: operators and ESC count 0, other characters their UTF-8 length, across tokens."""
    operators, escaped = [operator.decode() for operator in OPERATORS], False
    for surface in surfaces:
        count = 0
        for character in surface:
            if escaped or character not in operators:
                count += len(character.encode())
            escaped = not escaped and character == operators[3]
        yield count


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and value of the fields of a protocol buffer that are strings or messages; skip its integers."""
    at = 0

    def integer() -> int:
        nonlocal at
        value = shift = 0
        while True:
            value |= (message[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if message[at - 1] < 0x80:
                return value

    while at < len(message):
        number, wire_type = divmod(integer(), 8)
        value = integer()
        if wire_type == 2:
            yield number, message[at : at + value]
            at += value


def surfaces_of(tokenizer: CaseOpsTokenizer, text: str) -> list[str]:
    """The text of each token before normalisation, as SentencePiece states it (SentencePieceText.pieces.surface)."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.serialized.removeprefix(MAGIC))
    pieces = [piece for number, piece in fields(processor.encode(text, out_type="serialized_proto")) if number == 2]
    return [dict(fields(piece)).get(3, b"").decode() for piece in pieces]


def test_the_sidecar_on_real_text(caseops: CaseOpsTokenizer, english: list[bytes]) -> None:
    """Each document counts as its original, where the decoded tokens are shorter."""
    counts = [caseops.published_bytes(data) for data in english]
    for data, counted in zip(english, counts, strict=False):
        surfaces = surfaces_of(caseops, encode_case(data).decode())
        assert counted.tolist() == list(by_the_sidecar(surfaces))
    assert [int(counted.sum()) for counted in counts] == [len(data.strip()) for data in english]
    decoded = sum(len(caseops.normalised(data)) for data in english)
    assert decoded < sum(int(counted.sum()) for counted in counts)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("The NASA", {"\ue001": 0, "the": 3, "▁": 1, "\ue002": 0, "nas": 3, "a": 1}),
        ("two  spaces", {"two": 3, "▁spaces": 8}),
        ("a\u200b b", None),
        ("x 🙂", None),
        ("½ a", None),
        ("\ue004x\ue001", None),
        ("", {}),
    ],
)
def test_single_cases(text: str, counts: dict[str, int] | None, caseops: CaseOpsTokenizer) -> None:
    data = text.encode()
    ids, _ = caseops.encode_normalised(data)
    counted = caseops.published_bytes(data)
    assert counted.shape == ids.shape and counted.dtype == np.int64 and counted.sum() == len(data)
    if counts is not None:
        assert dict(zip([caseops.piece_strings[i] for i in ids], counted.tolist(), strict=True)) == counts


def test_a_character_in_bytes_counts_on_its_last_token(caseops: CaseOpsTokenizer) -> None:
    counted = caseops.published_bytes("x 🙂🙂".encode())
    assert counted[-8:].tolist() == [0, 0, 0, 4, 0, 0, 0, 4]


@settings(max_examples=examples(150), deadline=None)
@given(
    data=st.lists(
        st.text(max_size=8).map(str.encode) | st.binary(max_size=4) | st.sampled_from([b"NASA ", b"  ", *OPERATORS]),
        max_size=8,
    ).map(b"".join)
)
def test_any_text_counts_by_the_sidecars_rule(caseops: CaseOpsTokenizer, data: bytes) -> None:
    readable = data.decode("utf-8", "surrogateescape")
    readable = "".join("\ufffd" if "\udc80" <= c <= "\udcff" else c for c in readable)
    expected = list(by_the_sidecar(surfaces_of(caseops, encode_case(readable.encode()).decode())))
    assert caseops.published_bytes(data).tolist() == expected
