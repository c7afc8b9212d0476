"""The documents in one file: its compression, its format, and the members of archives."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import IO

from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.text.containers import Member, compression, decompress, is_tar, seekable_copy, tar_members, zip_members
from bitgolf.text.content import UnreadableFormat, peek, read_text
from bitgolf.text.document import Document, split_long_text
from bitgolf.text.json_arrays import read_json_array
from bitgolf.text.read_report import ReadOptions, ReadReport
from bitgolf.text.records import GUESSED_KEYS, RecordReader, read_json_lines
from bitgolf.text.tables import read_parquet, read_table

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
"""Formats of records, by suffix."""
TEXT_SUFFIXES = frozenset({".txt", ".md", ".rst", ".py", ".html", ".htm"})  # read as text whatever they begin with
MAX_DEPTH = 8  # of archives and compressed files inside each other
_HEAD_BYTES = 1 << 16  # read to recognize a format
_JSON_ARRAY = re.compile(rb'\s*\[\s*[{"]')


@dataclass(frozen=True)
class TextFile:
    """A file of unknown format. name: for messages. blocks: its bytes. inner: its name without suffixes of compression.

    named: the user named this file, so that it is an error if it holds no text; elsewhere it is skipped. path: the file
    on disk with the same bytes, None if there is none.
    """

    name: str
    blocks: Iterable[bytes]
    named: bool
    path: Path | None = None
    inner: str = ""
    depth: int = field(default=0, compare=False)

    @property
    def suffix(self) -> str:
        """The suffix in lower case, without that of compression."""
        return PurePosixPath(self.inner or self.name).suffix.lower()


def read_file(file: TextFile, options: ReadOptions, report: ReadReport) -> Iterator[Document]:
    """Yield the documents of a file, which may be compressed or an archive, and count them in `report`.

    A file that holds no text is an error if the user named it or reading is strict, and is skipped otherwise. If its first part was already
    read as text, it is always an error.
    """
    found = False
    try:
        for document in _documents(file, options, report):
            found = True
            yield document
    except UnreadableFormat as error:
        if file.named or found or options.strict:
            raise
        report.skip(error.reason, file.name)


def _documents(file: TextFile, options: ReadOptions, report: ReadReport) -> Iterator[Document]:
    if file.depth > MAX_DEPTH:
        raise BitgolfError(f"more than {MAX_DEPTH} archives or compressed files inside each other", where=file.name)
    head, blocks = peek(file.blocks, _HEAD_BYTES)
    kind, inner = compression(file.inner or file.name, head)
    if kind:
        plain = decompress(kind, blocks, file.name)
        yield from _documents(
            replace(file, blocks=plain, path=None, inner=inner, depth=file.depth + 1), options, report
        )
    elif is_tar(head) or file.suffix == ".tar":
        yield from _members(file, tar_members(blocks, file.name, report), options, report)
    elif file.suffix == ".zip" or (not file.suffix and head.startswith(b"PK\x03\x04")):
        with _seekable(file, blocks) as handle:
            yield from _members(file, zip_members(handle, file.name), options, report)
    elif file.suffix == ".parquet" or (head.startswith(b"PAR1") and b"\0" in head):
        if not head.startswith(b"PAR1"):
            message = "the file is not a Parquet file: it does not begin with PAR1"
            raise UnreadableFormat("not a Parquet file", message, where=file.name)
        reader = RecordReader(file.name, options, report)
        with _seekable(file, blocks) as handle:
            yield from _counted(read_parquet(handle, reader), "parquet", report)
    else:
        yield from _text_documents(replace(file, blocks=read_text(blocks, file.name, report)), options, report)


def _seekable(file: TextFile, blocks: Iterable[bytes]) -> AbstractContextManager[IO[bytes]]:
    return file.path.open("rb") if file.path else seekable_copy(blocks)


def _members(file: TextFile, members: Iterable[Member], options: ReadOptions, report: ReadReport) -> Iterator[Document]:
    """Yield the documents of the members of an archive, each of which is treated like a file in a folder.

    Raises `UnreadableFormat` if the archive is damaged before its first member, so that nothing of it was read.
    """
    rest = iter(members)
    try:
        first = list(islice(rest, 1))
    except CorruptFileError as error:
        raise UnreadableFormat("damaged archive", error.message, where=error.where, hint=error.hint) from error
    for member in chain(first, rest):
        name = f"{file.name}/{member.name}"
        if any(part.startswith(".") and part != "." for part in PurePosixPath(member.name).parts):
            report.skip("hidden", name)
            continue
        yield from read_file(TextFile(name, member.blocks, named=False, depth=file.depth + 1), options, report)


def _text_documents(file: TextFile, options: ReadOptions, report: ReadReport) -> Iterator[Document]:
    head, blocks = peek(file.blocks, _HEAD_BYTES)
    format = FORMATS.get(file.suffix) or _guess_format(file.suffix, head, options)
    reader = RecordReader(file.name, options, report)
    if format == "jsonl":
        documents = read_json_lines(blocks, reader)
    elif format == "json":
        documents = read_json_array(blocks, reader)
    elif format in ("csv", "tsv"):
        documents = read_table(blocks, reader, "," if format == "csv" else "\t")
    else:
        documents = _read_plain(blocks, file.name, report)
    yield from _counted(documents, format, report)


def _counted(documents: Iterator[Document], format: str, report: ReadReport) -> Iterator[Document]:
    """Yield the documents, and count them and their file; the file only if its format is readable."""
    first = next(documents, None)
    report.count_file(format)
    while first is not None:
        report.documents += 1
        yield first
        first = next(documents, None)


def _guess_format(suffix: str, head: bytes, options: ReadOptions) -> str:
    """Return the format of a text whose suffix tells nothing, such as standard input, by its first bytes."""
    if suffix in TEXT_SUFFIXES:
        return "text"
    if not suffix and _JSON_ARRAY.match(head):
        return "json"
    line = head.lstrip().partition(b"\n")[0]
    keys = (options.key,) if options.key else GUESSED_KEYS
    if line.startswith(b"{") and len(line) < len(head.lstrip()):
        with suppress(ValueError, RecursionError):
            record = json.loads(line)
            return "jsonl" if any(key in record for key in keys) else "text"
    return (
        "jsonl" if re.match(rb'\{\s*"(%s)"\s*:' % b"|".join(re.escape(os.fsencode(k)) for k in keys), line) else "text"
    )


def _read_plain(blocks: Iterable[bytes], name: str, report: ReadReport) -> Iterator[Document]:
    """Yield a text as one document, or as several if it is longer than `MAX_DOCUMENT_BYTES`."""
    pieces = split_long_text(blocks)
    first, second = next(pieces), next(pieces, None)
    if second is None:
        if first:
            yield Document(name, first)
        else:
            report.skip("empty document", name)
        return
    yield Document(f"{name}#0", first)
    number = 1
    while second is not None:
        if second:
            yield Document(f"{name}#{number}", second)
        second, number = next(pieces, None), number + 1
