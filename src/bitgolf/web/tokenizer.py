"""A tokenizer as the data that `tokenizer.js` needs."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitgolf.errors import BitgolfError
from bitgolf.tokens.byte_tokenizer import ByteTokenizer
from bitgolf.tokens.caseops_tokenizer import CaseOpsTokenizer
from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer
from bitgolf.tokens.tokenizer import Tokenizer


def tokenizer_data(tokenizer: Tokenizer) -> dict[str, Any]:
    """The keys that `tokenizer.js` describes. Raises `BitgolfError` for a kind of tokenizer that pages do not have."""
    pieces = [piece.decode("latin-1") for piece in tokenizer.piece_bytes]
    byte_tokens = [0] * 256
    for token in np.flatnonzero(tokenizer.is_byte).tolist():
        byte_tokens[tokenizer.piece_bytes[token][0]] = token
    data = {"kind": tokenizer.kind, "bos": tokenizer.bos, "pieces": pieces, "byteTokens": byte_tokens}
    if isinstance(tokenizer, ByteTokenizer):
        return data | {"scores": None, "symbols": []}
    inner = tokenizer.inner if isinstance(tokenizer, CaseOpsTokenizer) else tokenizer
    if not isinstance(inner, SentencePieceTokenizer) or not inner.byte_fallback or not inner.is_bpe:
        kind = (
            "SentencePiece, but not BPE with byte fallback" if isinstance(inner, SentencePieceTokenizer) else inner.kind
        )
        raise BitgolfError(
            f"a page has SentencePiece models of type BPE with byte fallback, and byte tokenizers; this one is {kind}",
            where="tokenizer",
            hint="train with a tokenizer of `bitgolf data make`",
        )
    unused = inner.is_byte | inner.is_boundary | np.array([" " in piece for piece in inner.piece_strings])
    symbols = sorted(symbol.decode() for symbol in inner.symbols)
    scores = [None if unused[token] else score for token, score in enumerate(inner.scores)]
    return data | {"scores": scores, "symbols": symbols}
