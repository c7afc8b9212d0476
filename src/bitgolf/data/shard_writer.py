"""Writing the shards of a split little by little, such that a killed process loses at most what followed a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from bitgolf.data.manifest import ShardEntry
from bitgolf.data.shards import HEADER_BYTES, Tokens, shard_header
from bitgolf.files import file_digest


class WriterState(msgspec.Struct):
    """What a `ShardWriter` has written. shards: complete ones; tokens: number of tokens in the unfinished one."""

    shards: list[ShardEntry] = msgspec.field(default_factory=list)
    tokens: int = 0


class ShardWriter:
    """Writes `{split}_000000.bin`, `{split}_000001.bin`, ..., each of `shard_tokens` tokens; the last may have fewer.

    The unfinished shard is in `{split}.part` of the folder `work`. state: where an earlier writer stopped; what it wrote
    afterwards is discarded. checkpoint: called when a shard is complete, and must store `state`.
    """

    def __init__(self, folder: Path, work: Path, split: str, shard_tokens: int, state: WriterState) -> None:
        self.folder, self.split, self.shard_tokens, self.state = folder, split, shard_tokens, state
        self._part = work / f"{split}.part"
        self._discard_later_shards()
        self._handle = self._open()

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.split}_{number:06d}.bin"

    def _discard_later_shards(self) -> None:
        """Undo what followed the checkpoint. The shard that was unfinished then may be complete, under its final name."""
        following = self._path(len(self.state.shards))
        if self.state.tokens and following.exists():
            following.replace(self._part)
        complete = {shard.name for shard in self.state.shards}
        for path in self.folder.glob(f"{self.split}_*.bin"):
            if path.name not in complete:
                path.unlink()

    def _open(self) -> IO[bytes]:
        """Open the unfinished shard at the end of its tokens. Its header is written when it is complete."""
        handle = self._part.open("r+b" if self.state.tokens else "w+b")
        handle.truncate(HEADER_BYTES + 2 * self.state.tokens)
        handle.seek(0, os.SEEK_END)
        return handle

    def append(self, tokens: Tokens) -> bool:
        """Write tokens, uint16 (n,). Returns whether a shard was completed, after which the caller stores `state`."""
        completed = False
        while len(tokens):
            now = tokens[: self.shard_tokens - self.state.tokens]
            self._handle.write(np.ascontiguousarray(now, "<u2").data)
            self.state.tokens += len(now)
            tokens = tokens[len(now) :]
            if self.state.tokens == self.shard_tokens:
                self._complete()
                completed = True
        return completed

    def _complete(self) -> None:
        self._handle.seek(0)
        self._handle.write(shard_header(self.state.tokens))
        self.sync()
        self._handle.close()
        path = self._path(len(self.state.shards))
        self._part.chmod(0o644)
        self._part.replace(path)
        self.state.shards.append(ShardEntry(path.name, self.state.tokens, file_digest(path)))
        self.state.tokens = 0
        self._handle = self._open()

    def sync(self) -> None:
        """Make what was written durable. `state` describes it, and may be stored now."""
        self._handle.flush()
        os.fsync(self._handle.fileno())

    def finish(self) -> tuple[ShardEntry, ...]:
        """Complete the last shard, and return all of them."""
        if self.state.tokens:
            self._complete()
        self.close()
        self._part.unlink()
        return tuple(self.state.shards)

    def close(self) -> None:
        """Close the file of the unfinished shard."""
        self._handle.close()
