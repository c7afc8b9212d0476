"""Fixtures: a small tokenizer, trained once per session."""

from __future__ import annotations

from itertools import islice

import pytest

from bitgolf.text.documents import python_library
from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer
from bitgolf.tokens.trainers import SentencePieceBPE


@pytest.fixture(scope="session")
def library() -> list[bytes]:
    """Half a megabyte of Python source files."""
    return [document.data for document in islice(python_library(), 25)]


@pytest.fixture(scope="session")
def tokenizer(library: list[bytes]) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(SentencePieceBPE(vocab=400, sample_bytes=300_000).train(library))
