"""Preparation of a data folder for training and scoring: tokenizer, shards, fingerprints, and a manifest.

A text is read twice. The first pass (`data.survey`) finds the fingerprints of all documents, which decide the split and
show duplicates, and a sample on which the tokenizer is trained. The second pass encodes the documents and writes shards.
Memory is bounded whatever the size of the text. The folder `unfinished` inside holds what a repeated call continues
from; it is removed at the end. The manifest is written last, so a folder with a manifest is complete. `data.verify`
checks all of its numbers.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bitgolf.data.encoding import DocumentBatch, encode_batch
from bitgolf.data.manifest import SPLITS, Manifest
from bitgolf.data.shard_output import ShardOutput, WriteState, clear_prepared, load_state
from bitgolf.data.survey import Survey, document_batches, load_survey, survey
from bitgolf.errors import BitgolfError
from bitgolf.files import json_digest, read_json, write_bytes, write_json
from bitgolf.report.findings import DataFinding
from bitgolf.report.log import RunLog
from bitgolf.report.progress import Progress, WorkProgress
from bitgolf.runtime.ordered_map import InProcess, OrderedMap
from bitgolf.text.documents import Document, ReadReport, TextSource, document_fingerprint
from bitgolf.text.split import check_fraction
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.tokenizer import Tokenizer
from bitgolf.tokens.trainers import TokenizerTrainer

SHARD_TOKENS = 10**8
AUDIT_DOCUMENTS = 20
"""Number of held-out documents on which a tokenizer is checked."""


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
    settings = [text.settings, text.trainer.cache_key(), text.held_out, text.shard_tokens]
    _begin(work, json_digest([source_key, *settings]))
    try:
        found = load_survey(work) or _survey(text, work)
        tokenizer = _tokenizer(text, work, found)
        if text.source.cache_key() != source_key:
            raise _changed(folder)
    except BitgolfError:
        _discard(folder, work)
        raise
    return PreparedText(_encode(text, folder, work, found, tokenizer), tokenizer, found.report)


def _begin(work: Path, key: str) -> None:
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
    report, size = ReadReport(), text.source.size()
    progress = WorkProgress(text.log.progress, "pass 1 of 2, fingerprints", "bytes")
    return survey(
        text.source.documents(report),
        work,
        text.workers,
        report,
        fraction=text.held_out,
        sample_bytes=text.trainer.sample_bytes,
        progress=lambda: progress.update(report.bytes_read, size),
    )


def _tokenizer(text: TextPreparation, work: Path, found: Survey) -> Tokenizer:
    """Return the tokenizer that an earlier call trained, or train and store it, and check it."""
    path = work / "tokenizer.model"
    if path.exists():
        tokenizer = tokenizer_from_bytes(path.read_bytes(), where=str(path))
    else:
        text.log.info(f"tokenizer: {type(text.trainer).__name__}")
        text.log.progress(Progress("train the tokenizer"))
        sample = found.sample if found.sample is not None else _documents(text.source, found, held_out=False)
        tokenizer = tokenizer_from_bytes(text.trainer.train(sample, text.note))
    held_out = _documents(text.source, found, held_out=True)
    text.check(tokenizer, [data for _, data in zip(range(AUDIT_DOCUMENTS), held_out, strict=False)])
    check_shardable(tokenizer)
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
    state, report, size = load_state(work), ReadReport(), text.source.size()
    if not state.read:
        clear_prepared(folder)
    progress = WorkProgress(text.log.progress, "pass 2 of 2, tokens", "bytes")
    batches = _labelled(text.source.documents(report), found, state.read, lambda: progress.restart(report.bytes_read))
    with closing(ShardOutput(folder, work, state, text.shard_tokens)) as output:
        for encoded in text.workers.map(partial(encode_batch, tokenizer.serialized, False), batches):
            output.write(encoded)
            progress.update(report.bytes_read, size)
        if state.read != len(found.kept):
            raise _changed(folder)
        return output.finish(tokenizer, {name: found.fingerprints(held_out=name == "val") for name in SPLITS})


def _labelled(
    documents: Iterable[Document], found: Survey, read: int, skipped: Callable[[], None]
) -> Iterator[DocumentBatch]:
    """Yield the documents after the first `read` in batches, by split, without duplicates.

    skipped: called for each batch of the first `read` documents.
    """
    position = 0
    for batch in document_batches(documents):
        start, position = position, position + len(batch)
        if position <= read:
            skipped()
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
    clear_prepared(folder)
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
