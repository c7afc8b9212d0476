"""Byte tokenizer: one token per byte and four special tokens, 260 in all (the challenge's byte260)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bitgolf.errors import CorruptFileError
from bitgolf.tokens.tokenizer import Ids, Tokenizer

MAGIC = b"bitgolf bytes\n"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")  # 0 to 3; byte b is b + 4


class ByteTokenizer(Tokenizer):
    """Tokenizer with one token per byte; the text need not be valid UTF-8.

    serialized: exactly `MAGIC`. Raises `CorruptFileError` for anything else.
    """

    kind = "bytes"

    def __init__(self, serialized: bytes = MAGIC, *, where: str = "tokenizer") -> None:
        if serialized != MAGIC:
            message = f"not a byte tokenizer: expected the {len(MAGIC)} bytes {MAGIC!r}, got {len(serialized)} bytes"
            raise CorruptFileError(message, where=where)
        super().__init__(serialized, where)
        self.bos = SPECIAL.index("<s>")
        self.piece_strings = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
        self.piece_bytes = [*(b"" for _ in SPECIAL), *(bytes([byte]) for byte in range(256))]
        self.is_boundary = np.arange(self.vocab) < len(SPECIAL)
        self.is_byte = ~self.is_boundary
        self.byte_lengths = self.is_byte.astype(np.int64)

    def encode_documents(self, documents: Sequence[bytes]) -> list[Ids]:
        return [np.add(np.frombuffer(data, np.uint8), len(SPECIAL), dtype=np.int32) for data in documents]

    def count_bytes(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        return (ids >= len(SPECIAL)).astype(np.int64)  # several times as fast as a table
