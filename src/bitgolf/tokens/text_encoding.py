"""Exact encoding of any bytes with a library that encodes only valid text and may alter it.

The text is split at what the library cannot encode, such as bytes that are not UTF-8. Those parts, and texts that the
library would not restore, become byte tokens, so losslessness does not depend on the library.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from bitgolf.errors import BitgolfError
from bitgolf.tokens.tokenizer import Ids, Tokenizer

NOT_UTF8 = "\udc80-\udcff"
"""Bytes that are not UTF-8, decoded with "surrogateescape": a range of characters in a regular expression."""


class TextTokenizer(Tokenizer):
    """Base class of tokenizers whose library encodes text.

    A subclass sets the attributes of `Tokenizer`, calls `_use_byte_tokens`, and implements `_encode_texts`. Characters of
    valid text that its library cannot encode are in `_unencodable_characters`, and `_unencodable` matches them too.
    """

    _unencodable_characters: str = ""
    _unencodable: re.Pattern[str] = re.compile(f"([{NOT_UTF8}]+)")
    _byte_ids: dict[int, int]

    def _use_byte_tokens(self) -> None:
        """Find the token of each byte, from `is_byte` and `piece_bytes`, and set `byte_fallback`."""
        self._byte_ids = {self.piece_bytes[token][0]: token for token in np.flatnonzero(self.is_byte).tolist()}
        self.byte_fallback = len(self._byte_ids) == 256

    @abstractmethod
    def _encode_texts(self, texts: list[str]) -> list[list[int]]:
        """Return the library's token ids of each text, without BOS."""

    def encode_documents(self, documents: Sequence[bytes]) -> list[Ids]:
        """Return the token ids of each document, int32 (n,), without BOS.

        Raises `BitgolfError` if a byte has no token.
        """
        if not self.byte_fallback:
            raise BitgolfError(
                "the tokenizer has no byte fallback, so some characters have no token",
                where=self.where,
                hint="use a tokenizer with a token for each of the 256 bytes, such as one trained with byte_fallback",
            )
        parts = [self._split(data) for data in documents]
        texts = [text for part in parts for text in part[::2]]
        encoded = iter(zip(texts, self._encode_texts(texts), strict=True))
        return [self._assemble(part, [self._checked(*next(encoded)) for _ in part[::2]]) for part in parts]

    def _split(self, data: bytes) -> list[str]:
        """Return texts that the library can encode (even items) and what is between them (odd items)."""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return self._unencodable.split(data.decode("utf-8", "surrogateescape"))
        if any(character in text for character in self._unencodable_characters):
            return self._unencodable.split(text)
        return [text]

    def _checked(self, text: str, ids: list[int]) -> list[int]:
        """Return the library's tokens if they decode to `text`, otherwise byte tokens."""
        data = text.encode()
        return ids if self.decode(ids) == data else self._byte_tokens(data)

    def _assemble(self, part: Sequence[str], encoded: list[list[int]]) -> Ids:
        """Join the tokens of the encoded texts (even items of `part`) and the byte tokens of the items between them."""
        if len(part) == 1:
            return np.array(encoded[0], np.int32)
        ids = list(encoded[0])
        for unencodable, text_ids in zip(part[1::2], encoded[1:], strict=True):
            ids += self._byte_tokens(unencodable.encode("utf-8", "surrogateescape"))
            ids += text_ids
        return np.array(ids, np.int32)

    def _byte_tokens(self, data: bytes) -> list[int]:
        return [self._byte_ids[byte] for byte in data]


def import_package(name: str, needed_by: str) -> Any:
    """Import a package of the extra `tokenizers`. Raises `BitgolfError` if it is missing. needed_by: for the message."""
    try:
        return import_module(name)
    except ImportError as error:
        hint = "pip install 'bitgolf[tokenizers]'"
        raise BitgolfError(f"{needed_by} needs the package {name}", hint=hint) from error


def readable_text(data: bytes) -> str:
    """Decode UTF-8, with U+FFFD for each byte that is not."""
    return re.sub(f"[{NOT_UTF8}]", "\ufffd", data.decode("utf-8", "surrogateescape"))
