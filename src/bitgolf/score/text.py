"""The text that a score is of: one stream of tokens, and the bytes that it stands for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bitgolf.data.manifest import load_manifest
from bitgolf.data.shards import Stream, find_shards
from bitgolf.errors import BitgolfError
from bitgolf.tokens.tokenizer import Tokenizer


class Text(NamedTuple):
    """Document after document, each opened by BOS, and a last BOS that makes the last document's end a target.

    tokens: int64; target t is tokens[t + 1], what comes after tokens[: t + 1]; bytes: of the raw text, UTF-8.
    """

    tokens: npt.NDArray[np.int64]
    bytes: int
    bos: int = 1

    @property
    def targets(self) -> int:
        return max(len(self.tokens) - 1, 0)

    def documents(self) -> list[tuple[int, int]]:
        """(start, stop) of each document: its targets are start … stop-1, the last of which is its end."""
        starts = np.flatnonzero(self.tokens[:-1] == self.bos).tolist()
        if self.targets and (not starts or starts[0]):
            starts.insert(0, 0)  # a cut text may begin within a document
        return list(zip(starts, [*starts[1:], self.targets], strict=True))

    def head(self, targets: int) -> Text:
        """The first so many targets, and their share of the bytes: for comparisons alone, as it counts no bytes."""
        targets = min(targets, self.targets)
        return self._replace(
            tokens=self.tokens[: targets + 1], bytes=max(1, round(self.bytes * targets / max(self.targets, 1)))
        )


def validation(data: Path) -> Text:
    """The validation shards of a folder."""
    manifest = load_manifest(data)
    stream = Stream(find_shards(data, "val"))
    return Text(
        with_last_end(stream.window(0, len(stream)), manifest.bos), manifest.val.encoded_bytes, bos=manifest.bos
    )


def of_documents(documents: Iterable[bytes], tokenizer: Tokenizer) -> Text:
    """Raw documents as a text. Raises where the tokens' bytes are not the documents' bytes."""
    pieces, size = list[npt.NDArray[np.int64]](), 0
    for i, document in enumerate(documents):
        ids = tokenizer.encode(document)
        if tokenizer.decode(ids) != document:
            raise BitgolfError(
                "the tokenizer cannot restore the text, so its bits per byte would be wrong", place=f"document {i}"
            )
        pieces += [np.array([tokenizer.bos]), ids.astype(np.int64)]
        size += len(document)
    tokens = with_last_end(np.concatenate(pieces), tokenizer.bos) if pieces else np.zeros(0, np.int64)
    return Text(tokens, size, tokenizer.bos)


def with_last_end(stream: npt.NDArray[np.integer], bos: int) -> npt.NDArray[np.int64]:
    """The stream closed by a BOS, so that the end of the last document is charged like that of every other."""
    return np.append(np.asarray(stream, dtype=np.int64), bos)
