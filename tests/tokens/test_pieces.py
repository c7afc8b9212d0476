"""Text of tokens while they are generated."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.tokens.byte_tokenizer import ByteTokenizer
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.pieces import decode_pieces
from bitgolf.tokens.tokenizer import Tokenizer
from bitgolf.tokens.trainers import CaseOpsBPE, SentencePieceBPE

TEXTS = [f"The quick Fox number {i} of NASA's iPhone – é, 日本".encode() for i in range(40)]
TOKENIZERS: list[Tokenizer] = [
    tokenizer_from_bytes(SentencePieceBPE(vocab=320).train(TEXTS)),
    tokenizer_from_bytes(CaseOpsBPE(vocab=320).train(TEXTS)),
    ByteTokenizer(),
]


def whole(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer.decode_lenient(ids).decode(errors="replace")


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda tokenizer: tokenizer.kind)
@given(data=st.data())
def test_any_tokens_have_the_text_that_they_have_at_once(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab - 1), max_size=40))
    assert "".join(decode_pieces(tokenizer, ids)) == whole(tokenizer, ids)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda tokenizer: tokenizer.kind)
def test_pieces_come_as_soon_as_the_next_word_begins(tokenizer: Tokenizer) -> None:
    text, taken = "The NASA iPhone 日本", list[int]()

    def tokens() -> Iterator[int]:
        for token in tokenizer.encode(text.encode()).tolist():
            taken.append(token)
            yield token

    pieces = decode_pieces(tokenizer, tokens())
    assert next(pieces).strip() == "The" and len(taken) < 8
    assert "".join([" ", *pieces]).split() == ["NASA", "iPhone", "日本"]


def test_no_tokens_have_no_text() -> None:
    assert list(decode_pieces(TOKENIZERS[0], [])) == []
