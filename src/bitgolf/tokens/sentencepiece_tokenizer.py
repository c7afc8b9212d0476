"""SentencePieceTokenizer models, with the exact bytes of each of their tokens.

SentencePieceTokenizer itself loses text: its normaliser folds characters, its white space is U+2581, its input has to be UTF-8.
`encode` avoids all three. It puts an identity normaliser in front of the same pieces, and spells what still would not
come back (a literal U+2581, bytes that are not UTF-8) in byte tokens. `encode_normalised` keeps the model's own normaliser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
from sentencepiece import SentencePieceProcessor

from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.tokens.tokenizer import Ids, Tokenizer

SPACE = "\u2581"
THREADS = 2

# Protocol buffers: of a message field that occurs twice the later one's values win, so this tail overrides the model's
# normalizer_spec (field 3): its name, no character map, no dummy prefix, no white space removed.
_SPEC = b"\x0a\x08identity" + b"\x12\x00" + b"\x18\x00" + b"\x20\x00"
_IDENTITY = b"\x1a" + bytes([len(_SPEC)]) + _SPEC
_ESCAPED = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of bytes that are not UTF-8


class SentencePieceTokenizer(Tokenizer):
    """A SentencePieceTokenizer model, from its serialized form `serialized`; names have spaces as U+2581.

    Raises `CorruptFileError` for anything that SentencePieceTokenizer does not load.
    """

    def __init__(self, serialized: bytes, *, where: str = "tokenizer") -> None:
        try:
            self._processor = SentencePieceProcessor(model_proto=serialized)
            self._identity_processor = SentencePieceProcessor(model_proto=serialized + _IDENTITY)
            self.piece_strings = self._processor.id_to_piece(list(range(len(self._processor))))
        except (RuntimeError, UnicodeDecodeError) as error:  # the latter also for a message about what is no UTF-8
            raise CorruptFileError(f"not a SentencePieceTokenizer model ({error})", where=where) from error
        if not self.piece_strings:
            raise CorruptFileError("not a SentencePieceTokenizer model (it is empty)", where=where)
        super().__init__(serialized, where)
        self.bos = int(self._processor.bos_id())
        self.is_byte = self._flags(self._processor.is_byte)
        self.is_boundary = self._flags(
            self._processor.is_control, self._processor.is_unknown, self._processor.is_unused
        )
        self.piece_bytes = [self._bytes_of(token) for token in range(self.vocab)]
        self.byte_lengths = np.array([len(piece) for piece in self.piece_bytes], np.int64)
        self._byte_ids = {self.piece_bytes[token][0]: token for token in np.flatnonzero(self.is_byte).tolist()}
        self.byte_fallback = len(self._byte_ids) == 256
        self.has_space = self._processor.piece_to_id(SPACE) != self._processor.unk_id()
        self._unencodable = re.compile(f"([{SPACE}\udc80-\udcff{'' if self.has_space else ' '}]+)")

    def _flags(self, *tests: Callable[[int], bool]) -> npt.NDArray[np.bool_]:
        return np.array([any(test(token) for test in tests) for token in range(self.vocab)])

    def _bytes_of(self, token: int) -> bytes:
        name = self.piece_strings[token]
        if self.is_byte[token]:
            return bytes([int(name[3:5], 16)])
        return b"" if self.is_boundary[token] else name.replace(SPACE, " ").encode()

    @cached_property
    def identity_normaliser(self) -> bool:
        """Whether the model's own normaliser changes nothing: overriding it with the identity leaves the model the same."""
        return self._processor.serialized_model_proto() == self._identity_processor.serialized_model_proto()

    @property
    def lossless(self) -> bool:
        """Whether SentencePieceTokenizer's own encoding of any text is exact, U+2581 apart: what others do with the model is, too."""
        return self.identity_normaliser and self.byte_fallback and self.has_space

    # ---- exact ---------------------------------------------------------------------------------------------------

    def encode_documents(self, documents: Sequence[bytes]) -> list[Ids]:
        """`encode` of each document, in one batch: about 5 MB a second on two cores."""
        if not self.byte_fallback:
            raise BitgolfError(
                "the tokenizer has no byte fallback: most characters have no tokens",
                where=self.where,
                hint="take a tokenizer trained with byte_fallback",
            )
        parts = [self._unencodable.split(data.decode("utf-8", "surrogateescape")) for data in documents]
        texts = [text for part in parts for text in part[::2]]
        encoded = iter(zip(texts, self._identity_processor.encode(texts, num_threads=THREADS), strict=True))
        return [self._assemble(part, [self._checked(*next(encoded)) for _ in part[::2]]) for part in parts]

    def _checked(self, text: str, ids: list[int]) -> list[int]:
        """SentencePieceTokenizer's tokens where they are exact, byte tokens otherwise: the promise does not rest on another's code."""
        data = text.encode()
        return ids if self.decode(ids) == data else self._byte_tokens(data)

    def _assemble(self, part: list[str], encoded: list[list[int]]) -> Ids:
        """Put the plain texts' tokens and the spelled foreign stretches between them together again."""
        ids = list(encoded[0])
        for foreign, plain in zip(part[1::2], encoded[1:], strict=True):
            ids += self._byte_tokens(foreign.encode("utf-8", "surrogateescape"))
            ids += plain
        return np.array(ids, np.int32)

    def _byte_tokens(self, data: bytes) -> list[int]:
        return [self._byte_ids[byte] for byte in data]

    # ---- as SentencePieceTokenizer does it --------------------------------------------------------------------------------

    def normalised(self, data: bytes) -> bytes:
        """The text that SentencePieceTokenizer encodes in place of `data`: UTF-8, spaces as spaces."""
        return self._processor.normalize(_readable(data)).replace(SPACE, " ").encode()

    def encode_normalised(self, data: bytes) -> tuple[Ids, int]:
        """What SentencePieceTokenizer makes of a text, as in the challenge's shards, and how many raw bytes that loses or changes.

        A raw byte is kept where its character comes through the normaliser as itself and has a token other than `<unk>`.
        """
        text = _readable(data)
        normal, offsets = self._processor.normalize(text, with_offsets=True)
        ids = np.array(self._processor.encode(text), np.int32)
        unknown = len(normal.replace(SPACE, " ").encode()) - int(self.byte_lengths[ids].sum())
        kept = _kept_bytes(data.decode("utf-8", "surrogateescape"), normal, np.array(offsets, np.int64))
        return ids, len(data) - kept + max(unknown, 0)

    def published_byte_count(self, ids: npt.NDArray[np.integer]) -> int:
        return challenge_byte_count(self, ids)


def _readable(data: bytes) -> str:
    return _ESCAPED.sub("\ufffd", data.decode("utf-8", "surrogateescape"))


def _kept_bytes(raw: str, normal: str, offsets: npt.NDArray[np.int64]) -> int:
    """UTF-8 bytes of the raw characters that the normaliser left as they are. `offsets`: normal character -> raw one."""
    before, after = _code_points(raw), _code_points(normal)
    after[after == ord(SPACE)] = ord(" ")
    origin = offsets[: len(after)]
    kept = before[np.unique(origin[before[origin] == after])]
    return int((1 + (kept >= 0x80) + (kept >= 0x800) + (kept >= 0x10000)).sum())


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).copy()


# ---- the challenge's own table -----------------------------------------------------------------------------------


def challenge_byte_count(tokenizer: Tokenizer, ids: npt.NDArray[np.integer]) -> int:
    """The bytes of a sequence by the challenge's rule, which looks at one token and its predecessor.

    A byte token counts 1; a piece its UTF-8 length without one leading U+2581; that mark counts 1 where the predecessor
    is an ordinary token or a byte, 0 after a control, unknown or unused token (which count 0) and at the very start.
    Two flaws are the rule's own: a document's real leading space counts 0, and a U+2581 inside a piece counts 3.
    """
    leading = np.array([name.startswith(SPACE) for name in tokenizer.piece_strings]) & ~tokenizer.is_boundary
    lengths = np.array([len(name.removeprefix(SPACE).encode()) for name in tokenizer.piece_strings])
    lengths[tokenizer.is_byte] = 1
    lengths[tokenizer.is_boundary] = 0
    after_boundary = np.concatenate([[True], tokenizer.is_boundary[ids[:-1]]])[: len(ids)]
    return int(lengths[ids].sum() + (leading[ids] & ~after_boundary).sum())
