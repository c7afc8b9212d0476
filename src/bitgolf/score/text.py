"""A text to be scored: one stream of tokens, and the number of bytes of the raw text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bitgolf.data.manifest import check_digests, load_manifest, open_split
from bitgolf.data.shards import TokenStream
from bitgolf.errors import BitgolfError
from bitgolf.files import digest
from bitgolf.tokens.tokenizer import Tokenizer


class TokenizedText(NamedTuple):
    """Tokens of the documents, each preceded by BOS, and one BOS after the last, so that every end is a target.

    tokens: int64 (targets + 1,); target t is tokens[t + 1], predicted from tokens[: t + 1].
    bytes: of the raw text in UTF-8. bos: id of BOS.
    """

    tokens: npt.NDArray[np.int64]
    bytes: int
    bos: int = 1

    @property
    def num_targets(self) -> int:
        return max(len(self.tokens) - 1, 0)

    def documents(self) -> list[tuple[int, int]]:
        """(start, stop) of each document. Its targets are start … stop-1; the last of them is the BOS that ends it."""
        starts = np.flatnonzero(self.tokens[:-1] == self.bos).tolist()
        if self.num_targets and (not starts or starts[0]):
            starts.insert(0, 0)  # a truncated text may begin within a document
        return list(zip(starts, [*starts[1:], self.num_targets], strict=True))

    def head(self, targets: int) -> TokenizedText:
        """The first `targets` targets. `bytes` is scaled in proportion, not counted: use this for comparisons only."""
        targets = min(targets, self.num_targets)
        return self._replace(
            tokens=self.tokens[: targets + 1], bytes=max(1, round(self.bytes * targets / max(self.num_targets, 1)))
        )


def load_validation(data: Path) -> TokenizedText:
    """The text of the validation shards of a prepared folder.

    Raises `CorruptFileError` if a shard is not the one that the manifest states, since a score divides by its bytes.
    """
    manifest = load_manifest(data)
    check_digests(data, "val")
    return text_of_shards(open_split(data, "val"), manifest.val.encoded_bytes, manifest.bos)


def text_of_shards(stream: TokenStream, encoded_bytes: int, bos: int) -> TokenizedText:
    """The text of shards. encoded_bytes: length of the text that their tokens decode to.

    If they begin within a document, a BOS is put before the first token, which otherwise would be no target although
    its bytes count.
    """
    tokens = append_final_bos(stream.window(0, len(stream)), bos)
    return TokenizedText(tokens if tokens[0] == bos else np.insert(tokens, 0, bos), encoded_bytes, bos)


def tokenize_documents(documents: Iterable[bytes], tokenizer: Tokenizer) -> TokenizedText:
    """Tokenize raw documents. Raises `BitgolfError` if decoding a document's tokens does not restore its bytes."""
    pieces, size = list[npt.NDArray[np.int64]](), 0
    for i, document in enumerate(documents):
        ids = tokenizer.encode(document)
        if tokenizer.decode(ids) != document:
            raise BitgolfError(
                "decoding the tokens does not restore the text, so its bits per byte would be wrong",
                where=f"document {i}",
                hint="use a lossless tokenizer",
            )
        pieces += [np.array([tokenizer.bos]), ids.astype(np.int64)]
        size += len(document)
    tokens = append_final_bos(np.concatenate(pieces), tokenizer.bos) if pieces else np.zeros(0, np.int64)
    return TokenizedText(tokens, size, tokenizer.bos)


def sample_documents(text: TokenizedText, tokens: int, tokenizer: Tokenizer) -> TokenizedText:
    """A sample of whole documents with at least `tokens` targets, in the order of the text; the text itself if it is shorter.

    Documents are taken in the order of the digests of their tokens, so the same text has the same sample on every
    machine. Bytes are counted, not estimated.
    """
    if tokens >= text.num_targets:
        return text
    documents = text.documents()
    chosen, total = list[tuple[int, int]](), 0
    for start, stop in sorted(documents, key=lambda span: digest(text.tokens[span[0] : span[1]].tobytes())):
        if total >= tokens:
            break
        chosen.append((start, stop))
        total += stop - start
    pieces = [text.tokens[start:stop] for start, stop in sorted(chosen)]
    size = sum(int(tokenizer.count_bytes(piece).sum()) for piece in pieces)
    return TokenizedText(append_final_bos(np.concatenate(pieces), text.bos), size, text.bos)


def append_final_bos(stream: npt.NDArray[np.integer], bos: int) -> npt.NDArray[np.int64]:
    """The stream followed by BOS, so that the end of the last document is a target like every other end."""
    return np.append(np.asarray(stream, dtype=np.int64), bos)
