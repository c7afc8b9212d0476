"""Fixtures: small tokenizers, trained once per session."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from itertools import islice
from typing import Any

import pytest

from bitgolf.text.documents import python_library
from bitgolf.tokens.byte_level import bytes_of_piece
from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer
from bitgolf.tokens.trainers import SentencePieceBPE


@pytest.fixture(scope="session")
def library() -> list[bytes]:
    """Half a megabyte of Python source files."""
    return [document.data for document in islice(python_library(), 25)]


@pytest.fixture(scope="session")
def tokenizer(library: list[bytes]) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(SentencePieceBPE(vocab=400, sample_bytes=300_000).train(library))


def trained_json(texts: Sequence[str], vocab: int = 400, **changes: Any) -> dict[str, Any]:
    """Train a byte-level BPE with the package `tokenizers`; return its tokenizer.json with `changes` made to it."""
    package = pytest.importorskip("tokenizers")
    made = package.Tokenizer(package.models.BPE())
    made.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = package.decoders.ByteLevel()
    made.train_from_iterator(
        texts,
        package.trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=package.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return {**json.loads(made.to_str()), **changes}


@pytest.fixture(scope="session")
def huggingface_json(library: list[bytes]) -> dict[str, Any]:
    """A tokenizer.json of 400 tokens; the first one is <|endoftext|>."""
    return trained_json([data.decode("utf-8", "replace") for data in library[:4]])


@pytest.fixture(scope="session")
def tiktoken_file(huggingface_json: dict[str, Any]) -> bytes:
    """The 399 other tokens as a tiktoken file, in the same order."""
    pieces = list(huggingface_json["model"]["vocab"])[1:]
    return b"".join(base64.b64encode(bytes_of_piece(piece)) + b" %d\n" % rank for rank, piece in enumerate(pieces))
