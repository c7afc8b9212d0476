"""Samples of held-out documents: whole documents, chosen by their content, with exactly counted bytes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.score.text import sample_documents, tokenize_documents
from bitgolf.tokens.byte_tokenizer import MAGIC
from bitgolf.tokens.loading import tokenizer_from_bytes

TOKENIZER = tokenizer_from_bytes(MAGIC)
documents = st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=12, unique=True)


@given(documents, st.integers(1, 60))
def test_a_sample_is_the_text_of_some_of_the_documents_in_order(texts: list[bytes], tokens: int) -> None:
    whole = tokenize_documents(texts, TOKENIZER)
    sample = sample_documents(whole, tokens, TOKENIZER)
    pieces = [bytes(TOKENIZER.decode(sample.tokens[start + 1 : stop])) for start, stop in sample.documents()]
    assert pieces == [text for text in texts if text in pieces]
    again = tokenize_documents(pieces, TOKENIZER)
    assert np.array_equal(again.tokens, sample.tokens) and sample.bytes == again.bytes
    assert sample.num_targets >= min(tokens, whole.num_targets)
    longest = max(stop - start for start, stop in sample.documents())
    assert sample.num_targets - longest < tokens, "no more documents than are needed"


@given(documents, st.integers(1, 60))
def test_the_choice_does_not_depend_on_the_order_of_documents(texts: list[bytes], tokens: int) -> None:
    def chosen(order: list[bytes]) -> set[bytes]:
        sample = sample_documents(tokenize_documents(order, TOKENIZER), tokens, TOKENIZER)
        return {bytes(TOKENIZER.decode(sample.tokens[start + 1 : stop])) for start, stop in sample.documents()}

    assert chosen(texts) == chosen(texts[::-1])


@given(documents)
def test_more_tokens_than_there_are_give_the_text(texts: list[bytes]) -> None:
    whole = tokenize_documents(texts, TOKENIZER)
    assert sample_documents(whole, whole.num_targets, TOKENIZER) is whole


def test_different_sizes_are_nested() -> None:
    whole = tokenize_documents([bytes([i]) * (1 + i % 7) for i in range(100)], TOKENIZER)
    sizes = [sample_documents(whole, tokens, TOKENIZER).num_targets for tokens in (1, 20, 100, 200)]
    assert sizes == sorted(sizes) and sizes[0] < 10 and sizes[-1] < whole.num_targets
