"""Preparation of a data folder for training and scoring: tokenizer, shards, fingerprints, and a manifest.

A text is read twice. The first pass (`data.survey`) finds the fingerprints of all documents, which decide the split and
show duplicates, and a sample on which the tokenizer is trained. The second pass encodes the documents and writes shards.
Memory is bounded whatever the size of the text. The folder `unfinished` inside holds what a repeated call continues
from; it is removed at the end. The manifest is written last, so a folder with a manifest is complete. `data.verify`
checks all of its numbers.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bitgolf.data.encoding import DocumentBatch, EncodedBatch, SplitCounts, encode_batch
from bitgolf.data.manifest import SPLITS, Manifest, SplitManifest
from bitgolf.data.shard_writer import ShardWriter, WriterState
from bitgolf.data.survey import Survey, document_batches, load_survey, survey
from bitgolf.data.verify import check_fingerprints
from bitgolf.errors import BitgolfError
from bitgolf.files import file_digest, json_digest, read_json, write_bytes, write_json
from bitgolf.report.findings import DataFinding
from bitgolf.report.log import RunLog
from bitgolf.report.pass_progress import PassProgress
from bitgolf.runtime.ordered_map import InProcess, OrderedMap
from bitgolf.text.documents import Document, ReadReport, TextSource, document_fingerprint
from bitgolf.text.split import check_fraction
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.tokenizer import Tokenizer
from bitgolf.tokens.trainers import TokenizerTrainer

SHARD_TOKENS = 10**8
CHECKPOINT_SECONDS = 10.0
AUDIT_DOCUMENTS = 20
"""Number of held-out documents on which a tokenizer is checked."""


class WriteState(msgspec.Struct):
    """A checkpoint of the second pass. read: documents read, including duplicates; counts and writers of each split."""

    read: int = 0
    counts: dict[str, SplitCounts] = msgspec.field(default_factory=lambda: {name: SplitCounts() for name in SPLITS})
    writers: dict[str, WriterState] = msgspec.field(default_factory=lambda: {name: WriterState() for name in SPLITS})


class PreparedText(NamedTuple):
    """A prepared folder: its manifest, its tokenizer, and what was read."""

    manifest: Manifest
    tokenizer: Tokenizer
    report: ReadReport


def work_folder(folder: Path) -> Path:
    """The folder of an unfinished preparation, inside the data folder."""
    return folder / "unfinished"


def input_folder(folder: Path) -> Path:
    """The folder for copies of a text that can be read only once. It is removed at the end, or if the text is refused."""
    return work_folder(folder) / "text"


@dataclass(frozen=True)
class TextPreparation:
    """How a text is prepared.

    source: the text. trainer: of its tokenizer. settings: JSON value that determines the tokenizer. held_out: share of
    the documents for validation. workers: processes that do the work. check: called with the tokenizer and some held-out
    documents before shards are written; may raise. note: called with findings of the training. shard_tokens: tokens per
    shard.
    """

    source: TextSource
    trainer: TokenizerTrainer
    settings: Any
    held_out: float = 0.05
    workers: OrderedMap = field(default_factory=InProcess)
    log: RunLog = field(default_factory=lambda: RunLog(quiet=True))
    check: Callable[[Tokenizer, Sequence[bytes]], None] = lambda tokenizer, documents: None
    note: Callable[[DataFinding], object] = lambda finding: None
    shard_tokens: int = SHARD_TOKENS


def prepare_text(text: TextPreparation, folder: Path) -> PreparedText:
    """Write tokenizer.model, train_000000.bin, ..., val_000000.bin, ..., one .fp file per split, and manifest.json.

    A document belongs to validation if its fingerprint is below the limit of the survey (`text.split`). If an earlier
    call with the same text and settings was stopped, its work is continued: the first pass is repeated unless it was
    complete, the second continues at its last checkpoint. The result does not depend on the number of workers.
    Raises `BitgolfError` if a split is empty, the text changes meanwhile, or the tokenizer has no BOS or too many tokens.
    """
    check_fraction(text.held_out)
    work = work_folder(folder)
    source_key = text.source.cache_key()
    _begin(
        folder,
        work,
        json_digest([source_key, text.settings, text.trainer.cache_key(), text.held_out, text.shard_tokens]),
    )
    try:
        found = load_survey(work) or _survey(text, work)
        tokenizer = _tokenizer(text, work, found)
        if text.source.cache_key() != source_key:
            raise _changed(folder)
    except BitgolfError:
        _discard(folder, work)
        raise
    return PreparedText(_encode(text, folder, work, found, tokenizer), tokenizer, found.report)


def _begin(folder: Path, work: Path, key: str) -> None:
    """Create the folder of the unfinished preparation, or keep it if it is of the same text and settings."""
    file = work / "key.json"
    if file.exists() and read_json(file) == key:
        return
    for path in work.glob("*"):
        if path != input_folder(work.parent):
            path.unlink()
    write_json(file, key)


def _discard(folder: Path, work: Path) -> None:
    """Remove what was begun, and the data folder too if nothing else is in it."""
    shutil.rmtree(work, ignore_errors=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _survey(text: TextPreparation, work: Path) -> Survey:
    report = ReadReport()
    progress = PassProgress(text.log, "pass 1 of 2, fingerprints", text.source.size(), lambda: report.bytes_read)
    return survey(
        text.source.documents(report),
        work,
        text.workers,
        report,
        fraction=text.held_out,
        sample_bytes=text.trainer.sample_bytes,
        progress=progress,
    )


def _tokenizer(text: TextPreparation, work: Path, found: Survey) -> Tokenizer:
    """Return the tokenizer that an earlier call trained, or train and store it, and check it."""
    path = work / "tokenizer.model"
    if path.exists():
        tokenizer = tokenizer_from_bytes(path.read_bytes(), where=str(path))
    else:
        text.log.info(f"tokenizer: {type(text.trainer).__name__}")
        sample = found.sample if found.sample is not None else _documents(text.source, found, held_out=False)
        tokenizer = tokenizer_from_bytes(text.trainer.train(sample, text.note))
    check_shardable(tokenizer)
    held_out = _documents(text.source, found, held_out=True)
    text.check(tokenizer, [data for _, data in zip(range(AUDIT_DOCUMENTS), held_out, strict=False)])
    write_bytes(path, tokenizer.serialized)
    return tokenizer


def check_shardable(tokenizer: Tokenizer) -> None:
    """Raise `BitgolfError` if shards cannot hold the tokens of a tokenizer."""
    if tokenizer.bos < 0 or tokenizer.vocab > 65_536:
        raise BitgolfError(
            f"shards need a BOS token and at most 65,536 tokens, got BOS {tokenizer.bos}, {tokenizer.vocab:,} tokens",
            where=tokenizer.where,
        )


def _documents(source: TextSource, found: Survey, *, held_out: bool) -> Iterator[bytes]:
    """Yield the documents of a split, without duplicates."""
    for i, document in enumerate(source.documents()):
        if i == len(found.kept):
            raise _changed()
        if found.kept[i] and (found.words[i] < found.limit) == held_out:
            yield document.data


# ---- the second pass -------------------------------------------------------------------------------------------


def _encode(text: TextPreparation, folder: Path, work: Path, found: Survey, tokenizer: Tokenizer) -> Manifest:
    """Write the shards of both splits from the last checkpoint on, and the manifest."""
    state, report = _load_state(work), ReadReport()
    if not state.read:
        _clear(folder)
    progress = PassProgress(text.log, "pass 2 of 2, tokens", text.source.size(), lambda: report.bytes_read)
    batches = _labelled(text.source.documents(report), found, state.read, progress)
    with closing(ShardOutput(folder, work, state, text.shard_tokens)) as output:
        for encoded in text.workers.map(partial(encode_batch, tokenizer.serialized, False), batches):
            output.write(encoded)
            progress()
        if state.read != len(found.kept):
            raise _changed(folder)
        return output.finish(tokenizer, {name: found.fingerprints(held_out=name == "val") for name in SPLITS})


def _load_state(work: Path) -> WriteState:
    path = work / "state.json"
    return msgspec.json.decode(path.read_bytes(), type=WriteState) if path.exists() else WriteState()


def _labelled(
    documents: Iterable[Document], found: Survey, read: int, progress: PassProgress
) -> Iterator[DocumentBatch]:
    """Yield the documents after the first `read` in batches, by split, without duplicates."""
    position = 0
    for batch in document_batches(documents):
        start, position = position, position + len(batch)
        if position <= read:
            progress.restart()
            continue
        kept = found.kept[start:position].tolist()
        held_out = (found.words[start:position] < found.limit).tolist()
        if len(kept) < len(batch):
            raise _changed()
        sides: tuple[list[bytes], list[bytes]] = [], []
        for i in range(max(read - start, 0), len(batch)):
            if kept[i]:
                sides[held_out[i]].append(batch[i].data)
        yield DocumentBatch(position, *sides)


def _changed(folder: Path | None = None) -> BitgolfError:
    hint = "run the command again when nothing writes to the text"
    return BitgolfError("the text changed while it was read", where=str(folder or ""), hint=hint)


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


def _clear(folder: Path) -> None:
    """Remove the files of an earlier preparation, the manifest first, so that no old shard is trained on."""
    for pattern in ("manifest.json", *(f"{name}_*.bin" for name in SPLITS)):
        for path in folder.glob(pattern):
            path.unlink()


# ---- splits that are given -------------------------------------------------------------------------------------


def prepare_data(
    documents_train: Iterable[Document],
    documents_val: Iterable[Document],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    shard_tokens: int = SHARD_TOKENS,
    use_own_normaliser: bool = False,
) -> Manifest:
    """Write the same files for splits that are given, in one pass. Duplicates are kept.

    use_own_normaliser: encode with SentencePiece's own normaliser, as in the challenge's shards, instead of losslessly.
    Raises `BitgolfError` if a document is in both splits, a split is empty, or the tokenizer cannot be used.
    """
    check_shardable(tokenizer)
    _clear(folder)
    work = work_folder(folder)
    shutil.rmtree(work, ignore_errors=True)
    hashes: dict[str, list[bytes]] = {name: [] for name in SPLITS}
    with closing(ShardOutput(folder, work, WriteState(), shard_tokens)) as output:
        for name, documents in (("val", documents_val), ("train", documents_train)):
            for batch in document_batches(documents):
                texts = [document.data for document in batch]
                hashes[name] += map(document_fingerprint, texts)
                sides = {"train": list[bytes](), "val": list[bytes](), name: texts}
                output.write(encode_batch(tokenizer.serialized, use_own_normaliser, DocumentBatch(0, **sides)))
        return output.finish(tokenizer, {name: b"".join(found) for name, found in hashes.items()})
