"""The files of a prepared folder while they are written: shards of both splits with checkpoints, then the manifest."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bitgolf.data.encoding import EncodedBatch, SplitCounts
from bitgolf.data.manifest import SPLITS, Manifest, SplitManifest
from bitgolf.data.shard_writer import ShardWriter, WriterState
from bitgolf.data.verify import check_fingerprints
from bitgolf.errors import BitgolfError
from bitgolf.files import file_digest, write_bytes, write_json
from bitgolf.tokens.tokenizer import Tokenizer

CHECKPOINT_SECONDS = 10.0


class WriteState(msgspec.Struct):
    """A checkpoint of the second pass. read: documents read, including duplicates; counts and writers of each split."""

    read: int = 0
    counts: dict[str, SplitCounts] = msgspec.field(default_factory=lambda: {name: SplitCounts() for name in SPLITS})
    writers: dict[str, WriterState] = msgspec.field(default_factory=lambda: {name: WriterState() for name in SPLITS})


def load_state(work: Path) -> WriteState:
    """Return the last checkpoint in the folder `work`, or that of a beginning."""
    path = work / "state.json"
    return msgspec.json.decode(path.read_bytes(), type=WriteState) if path.exists() else WriteState()


class ShardOutput:
    """The shards of both splits, with checkpoints in the folder `work`."""

    def __init__(self, folder: Path, work: Path, state: WriteState, shard_tokens: int) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.folder, self.work, self.state, self._stored = folder, work, state, time.monotonic()
        self.writers = {name: ShardWriter(folder, work, name, shard_tokens, state.writers[name]) for name in SPLITS}

    def write(self, batch: EncodedBatch) -> None:
        """Write an encoded batch."""
        completed = False
        for name, encoded in (("train", batch.train), ("val", batch.val)):
            completed |= self.writers[name].append(encoded.tokens)
            self.state.counts[name].add(encoded.counts)
        self.state.read = batch.read
        if completed or time.monotonic() - self._stored > CHECKPOINT_SECONDS:
            self._store()

    def _store(self) -> None:
        for writer in self.writers.values():
            writer.sync()
        write_json(self.work / "state.json", msgspec.to_builtins(self.state))
        self._stored = time.monotonic()

    def close(self) -> None:
        """Close the unfinished shards."""
        for writer in self.writers.values():
            writer.close()

    def finish(self, tokenizer: Tokenizer, fingerprints: Mapping[str, bytes]) -> Manifest:
        """Complete the last shards, write tokenizer, fingerprints of the documents by split, and the manifest.

        Raises `BitgolfError` if a split is empty or a document is in both.
        """
        for name in SPLITS:
            if not fingerprints[name]:
                raise BitgolfError("there are no documents", where=f"{name} documents")
            write_bytes(self.folder / f"{name}_documents.fp", fingerprints[name])
        list(check_fingerprints(self.folder))  # raises if a document is in both
        self._store()
        train, val = map(self._finish_split, SPLITS)
        write_bytes(self.folder / "tokenizer.model", tokenizer.serialized)
        manifest = Manifest(tokenizer.digest, tokenizer.vocab, tokenizer.bos, train, val)
        write_json(self.folder / "manifest.json", manifest.to_json())
        shutil.rmtree(self.work)
        return manifest

    def _finish_split(self, name: str) -> SplitManifest:
        shards = self.writers[name].finish()
        digest = file_digest(self.folder / f"{name}_documents.fp")
        return SplitManifest(**msgspec.structs.asdict(self.state.counts[name]), shards=shards, fingerprints=digest)


def clear_prepared(folder: Path) -> None:
    """Remove the files of an earlier preparation, the manifest first, so that no old shard is trained on."""
    for pattern in ("manifest.json", *(f"{name}_*.bin" for name in SPLITS)):
        for path in folder.glob(pattern):
            path.unlink()
