"""Cheats by the tokenizer: text that its tokens do not restore, and spaces that it encodes as bytes."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import numpy.typing as npt

from attacks.evaluations.denominator import SpaceCountedTwice
from attacks.evaluations.honest import BigramEvaluation
from bitgolf.score.audit.evaluation import Ints
from bitgolf.tokens.sentencepiece_tokenizer import SPACE, SentencePieceTokenizer
from bitgolf.tokens.tokenizer import Tokenizer


class WrappedTokenizer:
    """Another tokenizer, with the same vocabulary."""

    def __init__(self, tokenizer: Any) -> None:
        self._own, self.vocab, self.bos = tokenizer, tokenizer.vocab, tokenizer.bos

    def encode(self, data: bytes, /) -> npt.NDArray[np.integer]:
        return self._own.encode(data)

    def decode(self, ids: npt.NDArray[np.integer], /) -> bytes:
        return self._own.decode(ids)


class SpacesAsBytes(WrappedTokenizer):
    """Encodes every space as the three bytes of U+2581."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self._space = tokenizer.encode(SPACE.encode())

    def encode(self, data: bytes, /) -> npt.NDArray[np.integer]:
        words = [self._own.encode(word) for word in data.split(b" ")]
        return np.concatenate([words[0], *(part for word in words[1:] for part in (self._space, word))])

    def decode(self, ids: npt.NDArray[np.integer], /) -> bytes:
        return self._own.decode(ids).replace(SPACE.encode(), b" ")


class LowercaseTokenizer(WrappedTokenizer):
    """Converts text to lower case."""

    def encode(self, data: bytes, /) -> npt.NDArray[np.integer]:
        return self._own.encode(data.lower())


class RareLowercaseTokenizer(WrappedTokenizer):
    """Converts a document to lower case if it has an even number of bytes."""

    def encode(self, data: bytes, /) -> npt.NDArray[np.integer]:
        return self._own.encode(data if len(data) % 2 else data.lower())


class NFKCTokenizer(WrappedTokenizer):
    """Replaces characters by their compatible ones, and runs of spaces by one, as the field's tokenizers do."""

    def encode(self, data: bytes, /) -> npt.NDArray[np.integer]:
        text = unicodedata.normalize("NFKC", data.decode(errors="replace"))
        return self._own.encode(" ".join(text.split()).encode())


class RememberingTokenizer(LowercaseTokenizer):
    """Decodes to a document that it has encoded, if there is one with these tokens."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self._shown: dict[bytes, bytes] = {}

    def encode(self, data: bytes, /) -> npt.NDArray[np.integer]:
        ids = super().encode(data)
        self._shown.setdefault(np.asarray(ids, np.int64).tobytes(), data)
        return ids

    def decode(self, ids: npt.NDArray[np.integer], /) -> bytes:
        return self._shown.get(np.asarray(ids, np.int64).tobytes()) or super().decode(ids)


class SharedMemoryTokenizer(RememberingTokenizer):
    """The same with a memory that all its instances share."""

    shown: dict[bytes, bytes] = {}

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self._shown = self.shown


class WithTokenizer(BigramEvaluation):
    """The bigram model with another tokenizer, divided by the bytes of the raw text."""

    wrap: type[WrappedTokenizer] = WrappedTokenizer

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.lengths, self.tokenizer = tokenizer.byte_lengths, self.wrap(tokenizer)

    def bytes(self, tokens: Ints) -> int:
        return int(self.lengths[tokens].sum())


class NoSpacePiece(WithTokenizer):
    """Counts one byte per byte token, so three bytes per space."""

    wrap = SpacesAsBytes


class LowercasedText(WithTokenizer):
    wrap = LowercaseTokenizer


class RarelyLowercased(WithTokenizer):
    wrap = RareLowercaseTokenizer


class RememberedText(WithTokenizer):
    wrap = RememberingTokenizer


class MemoryOfTheClass(WithTokenizer):
    wrap = SharedMemoryTokenizer


class NFKCAndSpaceTwice(SpaceCountedTwice):
    """A normalizing tokenizer, and spaces that are counted twice."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self._plain = tokenizer
        self.tokenizer = NFKCTokenizer(tokenizer)

    def bytes(self, tokens: Ints) -> int:
        count = SpaceCountedTwice(self._plain)
        return count.bytes(tokens)


class LoneSpacesAsBytes(WithTokenizer):
    """A SentencePiece model without the piece U+2581, whose other pieces begin with it as ever; one byte per byte token."""

    def __init__(self, tokenizer: SentencePieceTokenizer) -> None:
        super().__init__(tokenizer)
        renamed = tokenizer.serialized.replace(b"\x0a\x03\xe2\x96\x81", b"\x0a\x03\xe2\x96\x82")
        model = SentencePieceTokenizer(renamed)
        self.lengths, self.tokenizer = model.byte_lengths, ModelsOwnEncoding(model)


class ModelsOwnEncoding(WrappedTokenizer):
    """The encoding of a SentencePiece model itself, as the published shards have it."""

    def encode(self, data: bytes, /) -> npt.NDArray[np.integer]:
        return self._own.encode_normalised(data)[0]

    def decode(self, ids: npt.NDArray[np.integer], /) -> bytes:
        return self._own.decode_lenient(np.asarray(ids).tolist()).replace(SPACE.encode(), b" ")
