"""A token for each byte: no training, no pieces, 260 tokens (the challenge's byte260)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitgolf.errors import CorruptFileError
from bitgolf.tokens.tokenizer import Ids, Tokenizer

MAGIC = b"bitgolf bytes\n"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")  # 0 to 3; byte b is b + 4


class ByteTokenizer(Tokenizer):
    """`serialized` is the magic alone. Bytes that are not UTF-8 are tokens like all others."""

    def __init__(self, serialized: bytes = MAGIC, *, where: str = "tokenizer") -> None:
        if serialized != MAGIC:
            raise CorruptFileError("not a byte tokenizer: something follows its name", where=where)
        super().__init__(serialized, where)
        self.bos = SPECIAL.index("<s>")
        self.piece_strings = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
        self.piece_bytes = [*(b"" for _ in SPECIAL), *(bytes([byte]) for byte in range(256))]
        self.is_boundary = np.arange(self.vocab) < len(SPECIAL)
        self.is_byte = ~self.is_boundary
        self.byte_lengths = self.is_byte.astype(np.int64)

    def encode_documents(self, documents: Sequence[bytes]) -> list[Ids]:
        return [np.frombuffer(data, np.uint8).astype(np.int32) + len(SPECIAL) for data in documents]
