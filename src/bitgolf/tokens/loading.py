"""Loading of tokenizers; the first bytes of a serialized tokenizer identify its type."""

from __future__ import annotations

from pathlib import Path

from bitgolf.errors import BitgolfError
from bitgolf.tokens import byte_tokenizer, caseops_tokenizer
from bitgolf.tokens.byte_tokenizer import ByteTokenizer
from bitgolf.tokens.caseops_tokenizer import CaseOpsTokenizer
from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer
from bitgolf.tokens.tokenizer import Tokenizer


def tokenizer_from_bytes(proto: bytes, *, where: str = "tokenizer") -> Tokenizer:
    """Return the tokenizer of a serialized form, recognized by its first bytes.

    It is a byte tokenizer, one with case operators, or a SentencePiece model. Raises `CorruptFileError` otherwise.
    """
    if proto.startswith(byte_tokenizer.MAGIC):
        return ByteTokenizer(proto, where=where)
    if proto.startswith(caseops_tokenizer.MAGIC):
        return CaseOpsTokenizer(proto, where=where)
    return SentencePieceTokenizer(proto, where=where)


def load_tokenizer(path: Path, *, case_operators: bool = False) -> Tokenizer:
    """Return the tokenizer of a file.

    case_operators: the file is a plain SentencePiece model that was trained on text with case operators, as published.
    Raises `BitgolfError` if the file cannot be read, and `CorruptFileError` if it is not a tokenizer.
    """
    try:
        proto = path.read_bytes()
    except OSError as error:
        raise BitgolfError(f"the tokenizer cannot be read ({error.strerror})", where=str(path)) from error
    if case_operators:
        proto = caseops_tokenizer.MAGIC + proto.removeprefix(caseops_tokenizer.MAGIC)
    return tokenizer_from_bytes(proto, where=str(path))
