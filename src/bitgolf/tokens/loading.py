"""The kinds of tokenizer: each serialized form says of which it is."""

from __future__ import annotations

from pathlib import Path

from bitgolf.errors import BitgolfError
from bitgolf.tokens import byte_tokenizer, caseops_tokenizer
from bitgolf.tokens.byte_tokenizer import ByteTokenizer
from bitgolf.tokens.caseops_tokenizer import CaseOpsTokenizer
from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer
from bitgolf.tokens.tokenizer import Tokenizer


def tokenizer_from_bytes(proto: bytes, *, where: str = "tokenizer") -> Tokenizer:
    """The tokenizer of a serialized form: by its first bytes a byte tokenizer, case operators, or else a SentencePieceTokenizer model.

    Raises `CorruptFileError` for what is none of them.
    """
    if proto.startswith(byte_tokenizer.MAGIC):
        return ByteTokenizer(proto, where=where)
    if proto.startswith(caseops_tokenizer.MAGIC):
        return CaseOpsTokenizer(proto, where=where)
    return SentencePieceTokenizer(proto, where=where)


def load_tokenizer(path: Path, *, case_operators: bool = False) -> Tokenizer:
    """The tokenizer of a file. Raises `BitgolfError` where it cannot be read, `CorruptFileError` where it is none.

    case_operators: the file is the SentencePieceTokenizer model alone of text with case operators, as published ones are.
    """
    try:
        proto = path.read_bytes()
    except OSError as error:
        raise BitgolfError(f"the tokenizer cannot be read ({error.strerror})", where=str(path)) from error
    if case_operators:
        proto = caseops_tokenizer.MAGIC + proto.removeprefix(caseops_tokenizer.MAGIC)
    return tokenizer_from_bytes(proto, where=str(path))
