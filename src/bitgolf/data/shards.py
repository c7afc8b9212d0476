"""Shards: token files in the challenge's format, and token streams over a list of them.

A shard is a header of 256 little-endian int32 (magic 20240520, version 1, number of tokens, zeros), then the tokens as
little-endian uint16; its size is exactly 1024 + 2n bytes for n tokens. Each document is preceded by BOS, and may
continue in the next shard. This is the format of the published Parameter Golf shards, from modded-nanogpt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitgolf.data.shard_header import HEADER_BYTES, MAGIC, VERSION, read_token_count
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.files import atomic_write

_SIDECAR = "_bytes_"
_BLOCK_TOKENS = 1 << 16  # per step of a search
Tokens = npt.NDArray[np.uint16]
Positions = npt.NDArray[np.int64]


def write_shard(path: Path, ids: npt.NDArray[np.integer]) -> None:
    """Write token ids, integers (n,) with n >= 1 and each below 65,536, atomically. Raises `BitgolfError` otherwise."""
    if ids.ndim != 1 or not 0 < len(ids) < 2**31:
        raise BitgolfError(f"a shard must hold 1 to 2**31 - 1 tokens, got shape {ids.shape}", where=str(path))
    if ids.min() < 0 or ids.max() > 65_535:
        raise BitgolfError(f"token ids from {ids.min()} to {ids.max()} do not fit into 16 bits", where=str(path))
    with atomic_write(path) as handle:
        handle.write(shard_header(len(ids)))
        handle.write(ids.astype("<u2").tobytes())


def shard_header(tokens: int) -> bytes:
    """Return the header of a shard with this number of tokens, 1024 bytes."""
    header = np.zeros(HEADER_BYTES // 4, "<i4")
    header[:3] = MAGIC, VERSION, tokens
    return header.tobytes()


def read_shard(path: Path) -> Tokens:
    """Return the tokens of a shard, uint16 (n,), memory-mapped.

    Raises `BitgolfError` if the file cannot be read, and `CorruptFileError` if its header or size is wrong.
    """
    return np.memmap(path, "<u2", "r", HEADER_BYTES, (read_token_count(path),))


def find_shards(folder: Path, split: str) -> list[Path]:
    """Return the shards of `split` ("train" or "val") in a folder, sorted by name, without byte sidecars (`*_bytes_*`).

    A shard belongs to the split that occurs last in its file name. Raises `UsageError` if the folder has none.
    """
    found = [path for path in _files(folder, split) if _SIDECAR not in path.name]
    if not found:
        message = f"there are no {split} shards (such as {split}_000000.bin)"
        hint = f"name a folder of files *{split}*.bin, or create shards with `bitgolf data make`"
        raise UsageError(message, where=str(folder), hint=hint)
    return found


def find_sidecars(folder: Path, split: str) -> list[Path]:
    """Return the byte sidecars of `split` in a folder (`*_bytes_*.bin`, see `data.sidecar`), sorted by name."""
    return [path for path in _files(folder, split) if _SIDECAR in path.name]


def sidecar_name(shard: str) -> str:
    """Return the name of the byte sidecar of a shard: fineweb_val_000000.bin has fineweb_val_bytes_000000.bin."""
    stem, _, number = shard.rpartition("_")
    return f"{stem}{_SIDECAR}{number}"


def _files(folder: Path, split: str) -> list[Path]:
    return sorted(path for path in folder.glob("*.bin") if _split(path) == split)


def _split(path: Path) -> str:
    words = [word for word in re.findall("[a-z]+", path.stem) if word in ("train", "val")]
    return words[-1] if words else ""


class TokenStream:
    """The tokens of several shards as one sequence, which starts over at its end.

    Raises `UsageError` if there are no shards, and the errors of `read_shard`.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        if not paths:
            raise UsageError("a token stream needs at least one shard, got none")
        self.folder = str(paths[0].parent)
        self.shards = [read_shard(path) for path in paths]
        self._ends: Positions = self.shard_sizes.cumsum()

    def __len__(self) -> int:
        """Number of tokens of all shards."""
        return int(self._ends[-1])

    def window(self, start: int, length: int) -> Positions:
        """Return the tokens start, start + 1, ... of the repeated sequence, int64 (length,)."""
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
        """Number of tokens of each shard, int64 (shards,)."""
        return np.array([len(shard) for shard in self.shards], np.int64)

    @property
    def shard_starts(self) -> Positions:
        """Position of the first token of each shard, int64 (shards,)."""
        return self._ends - self.shard_sizes

    def document_starts(self, bos: int) -> Positions:
        """Return the positions of BOS, int64 (documents,), ascending. Reads all shards."""
        return np.concatenate([self.document_starts_in(i, bos) for i in range(len(self.shards))])

    def document_starts_in(self, shard: int, bos: int) -> Positions:
        """Return the positions of BOS in one shard, int64 (documents,), ascending, relative to the stream."""
        return np.flatnonzero(self.shards[shard] == bos) + self.shard_starts[shard]

    def next_document_start(self, position: int, bos: int) -> int:
        """Return the position of the first BOS at or after `position`; the length of the stream if there is none."""
        for first in range(position, len(self), _BLOCK_TOKENS):
            found = np.flatnonzero(self.window(first, min(_BLOCK_TOKENS, len(self) - first)) == bos)
            if len(found):
                return first + int(found[0])
        return len(self)
