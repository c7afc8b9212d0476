"""Fixtures: small tokenizers, trained once per session."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from bitgolf.text.documents import python_library
from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer
from bitgolf.tokens.trainers import SentencePieceBPE
from helpers.byte_level_tokenizers import tiktoken_file_of, train_huggingface


@pytest.fixture(scope="session")
def library() -> list[bytes]:
    """Half a megabyte of Python source files."""
    return [document.data for document in islice(python_library(), 25)]


@pytest.fixture(scope="session")
def tokenizer(library: list[bytes]) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(SentencePieceBPE(vocab=400, sample_bytes=300_000).train(library))


@pytest.fixture(scope="session")
def huggingface_json(library: list[bytes]) -> dict[str, Any]:
    """A tokenizer.json of 400 tokens; the first one is <|endoftext|>."""
    return train_huggingface(library[:4], vocab=400)


@pytest.fixture(scope="session")
def tiktoken_file(huggingface_json: dict[str, Any]) -> bytes:
    """The 399 other tokens as a tiktoken file, in the same order."""
    return tiktoken_file_of(huggingface_json)
