"""Byte-level BPE tokenizers as files: a tokenizer.json, and the same tokens in tiktoken's format."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest

from bitgolf.tokens.byte_level import bytes_of_piece


def train_huggingface(texts: Sequence[bytes], vocab: int) -> dict[str, Any]:
    """Train with the package `tokenizers`; return the tokenizer.json. Its first token is <|endoftext|>."""
    package = pytest.importorskip("tokenizers")
    made = package.Tokenizer(package.models.BPE())
    made.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = package.decoders.ByteLevel()
    trainer = package.trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=package.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([text.decode("utf-8", "replace") for text in texts], trainer)
    return json.loads(made.to_str())


def tiktoken_file_of(spec: dict[str, Any]) -> bytes:
    """Return the tokens of such a tokenizer.json but the first one as a tiktoken file, in the same order."""
    pieces = list(spec["model"]["vocab"])[1:]
    return b"".join(base64.b64encode(bytes_of_piece(piece)) + b" %d\n" % rank for rank, piece in enumerate(pieces))
