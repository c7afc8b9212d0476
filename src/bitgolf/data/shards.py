"""Shards: files of tokens in the challenge's format, and a list of them as one endless sequence.

A shard is a header of 256 little-endian int32 (magic 20240520, version 1, number of tokens, zeros), then the tokens as
little-endian uint16; its size is exactly 1024 + 2n bytes. Documents follow one another, each after a BOS, and may run on
into the next shard. (Format of the published Parameter Golf shards, from modded-nanogpt.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitgolf.errors import BitgolfError, CorruptFileError, UsageError
from bitgolf.files import atomic_write

MAGIC, VERSION = 20240520, 1
HEADER_BYTES = 1024  # bytes
_BLOCK_TOKENS = 1 << 16  # searched at a time
Tokens = npt.NDArray[np.uint16]
Positions = npt.NDArray[np.int64]


def write_shard(path: Path, ids: npt.NDArray[np.integer]) -> None:
    """Write token ids [n], n >= 1, each below 65,536. The file is whole or absent."""
    if ids.ndim != 1 or not 0 < len(ids) < 2**31:
        raise BitgolfError(f"a shard holds 1 to 2**31 - 1 tokens, not an array of shape {ids.shape}", where=str(path))
    if ids.min() < 0 or ids.max() > 65_535:
        raise BitgolfError(f"token ids from {ids.min()} to {ids.max()} do not fit into 16 bits", where=str(path))
    header = np.zeros(HEADER_BYTES // 4, "<i4")
    header[:3] = MAGIC, VERSION, len(ids)
    with atomic_write(path) as handle:
        handle.write(header.tobytes())
        handle.write(ids.astype("<u2").tobytes())


def read_shard(path: Path) -> Tokens:
    """The tokens of a shard, uint16 [n], mapped from the file. Raises `CorruptFileError` that says what is wrong with it."""
    try:
        size = path.stat().st_size
        header = np.fromfile(path, "<i4", 3)
    except OSError as error:
        raise BitgolfError(f"the shard cannot be read ({error.strerror})", where=str(path)) from error
    if size < HEADER_BYTES:
        raise CorruptFileError(f"not a shard: {size} bytes, less than its header of {HEADER_BYTES}", where=str(path))
    magic, version, count = header.tolist()
    if magic != MAGIC:
        raise CorruptFileError(f"not a shard: it starts with {magic}, not {MAGIC}", where=str(path))
    if version != VERSION:
        raise CorruptFileError(f"a shard of version {version}; only version {VERSION} is known", where=str(path))
    if count < 1:
        raise CorruptFileError(f"the shard's header announces {count} tokens", where=str(path))
    if size != HEADER_BYTES + 2 * count:
        wrong = "short" if size < HEADER_BYTES + 2 * count else "long"
        message = f"the shard is too {wrong}: {size:,} bytes where {count:,} tokens take {HEADER_BYTES + 2 * count:,}"
        raise CorruptFileError(message, where=str(path), hint="fetch or make it again")
    return np.memmap(path, "<u2", "r", HEADER_BYTES, (count,))


def find_shards(folder: Path, split: str) -> list[Path]:
    """The shards of `split` ("train" or "val") in a folder, sorted by name; byte sidecars (`*_bytes_*`) are not shards.

    The last of the words train and val in a file's name decides, so none is of both, whatever else it is called.
    """
    found = sorted(path for path in folder.glob("*.bin") if _split(path) == split and "_bytes_" not in path.name)
    if not found:
        message = f"there are no {split} shards (such as {split}_000000.bin)"
        raise UsageError(message, where=str(folder), hint="bitgolf data make")
    return found


def _split(path: Path) -> str:
    words = [word for word in re.findall("[a-z]+", path.stem) if word in ("train", "val")]
    return words[-1] if words else ""


class TokenStream:
    """Shard files, in the order given, as one sequence of tokens that starts over at its end. Each is checked (`read_shard`)."""

    def __init__(self, paths: Sequence[Path]) -> None:
        if not paths:
            raise UsageError("a stream needs at least one shard")
        self.folder = str(paths[0].parent)
        self.shards = [read_shard(path) for path in paths]
        self._ends: Positions = self.shard_sizes.cumsum()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def window(self, start: int, length: int) -> Positions:
        """Tokens start, start + 1, ... of the endless sequence, int64 [length]."""
        window = np.empty(length, np.int64)
        done = 0
        while done < length:
            position = (start + done) % len(self)
            i = int(np.searchsorted(self._ends, position, side="right"))
            offset = position - (int(self._ends[i]) - len(self.shards[i]))
            piece = self.shards[i][offset : offset + length - done]
            window[done : done + len(piece)] = piece
            done += len(piece)
        return window

    @property
    def shard_sizes(self) -> Positions:
        """Tokens of each shard, int64 [shards]."""
        return np.array([len(shard) for shard in self.shards], np.int64)

    @property
    def shard_starts(self) -> Positions:
        """Where each shard begins, int64 [shards]."""
        return self._ends - self.shard_sizes

    def document_starts(self, bos: int) -> Positions:
        """Where documents start: the positions of BOS, int64, ascending."""
        return np.concatenate([self.document_starts_in(i, bos) for i in range(len(self.shards))])

    def document_starts_in(self, shard: int, bos: int) -> Positions:
        """The same in one shard. Reads all of it."""
        return np.flatnonzero(self.shards[shard] == bos) + self.shard_starts[shard]

    def next_document_start(self, position: int, bos: int) -> int:
        """Where the first document starts at or after a position: the stream's length where none does."""
        for first in range(position, len(self), _BLOCK_TOKENS):
            found = np.flatnonzero(self.window(first, min(_BLOCK_TOKENS, len(self) - first)) == bos)
            if len(found):
                return first + int(found[0])
        return len(self)
