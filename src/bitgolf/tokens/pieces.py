"""Decoding of tokens to text while they are generated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bitgolf.tokens.tokenizer import Tokenizer


def decode_pieces(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """Yield the text of tokens in pieces of about a word, each as soon as later tokens cannot change it.

    The pieces joined are `tokenizer.decode_lenient(ids)`, with U+FFFD for bytes that are not UTF-8. A character may
    consist of several tokens, and a case operator acts on the letters after it, so a piece ends before a token that
    begins with an ASCII character other than a letter, such as a space: neither reaches across it.
    """
    pending: list[int] = []
    for token in ids:
        if pending and _begins_a_word(tokenizer.piece_bytes[token]):
            yield tokenizer.decode_lenient(pending).decode(errors="replace")
            pending.clear()
        pending.append(token)
    if pending:
        yield tokenizer.decode_lenient(pending).decode(errors="replace")


def _begins_a_word(piece: bytes) -> bool:
    return piece[:1].isascii() and bool(piece) and not piece[:1].isalpha()
