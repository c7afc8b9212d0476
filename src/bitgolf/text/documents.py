"""Documents: raw bytes with a name, read from files and folders of any format, and the sources that a recipe may name."""

from __future__ import annotations

import sys
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bitgolf.config.ranges import ByteCount
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.text.document import Document, document_fingerprint, split_long_document
from bitgolf.text.files import check_paths, file_blocks, find_files, is_stream, walk
from bitgolf.text.formats import FORMATS, TextFile, read_file
from bitgolf.text.read_report import DEFAULT_OPTIONS, ReadOptions, ReadReport
from bitgolf.text.split import train_validation_split

__all__ = [
    "CommandLineText",
    "Document",
    "PythonStandardLibrary",
    "ReadOptions",
    "ReadReport",
    "TextFiles",
    "TextSample",
    "TextSource",
    "document_fingerprint",
    "python_library",
    "read_documents",
    "split_long_document",
    "train_validation_split",
]

SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


# ---- sources that a recipe may name ----------------------------------------------------------------------------


class TextSource(ABC):
    """Base class of the text sources that a recipe may name."""

    @abstractmethod
    def documents(self, report: ReadReport | None = None) -> Iterator[Document]:
        """Yield the documents, and count them in `report`. Raises `UsageError` if there are none."""

    @abstractmethod
    def cache_key(self) -> list[Any]:
        """Return JSON values that change when the text changes, determined without reading the text."""

    def size(self) -> int:
        """Return the size of the files in bytes, as `ReadReport.bytes_read` counts it; 0 if it is unknown."""
        return 0


@register
class PythonStandardLibrary(TextSource):
    """The source files of the running Python's standard library, which exist on every machine."""

    def documents(self, report: ReadReport | None = None) -> Iterator[Document]:
        for document in python_library():
            if report:
                report.count_file("text")
                report.documents += 1
                report.bytes_read += len(document.data)
            yield document

    def cache_key(self) -> list[Any]:
        return [sys.version]

    def size(self) -> int:
        return sum(file.stat().st_size for file in _library_files())


@register
class TextFiles(TextSource):
    """Text files, folders and patterns, in the given order. key, skip_null, strict: as in `ReadOptions`."""

    def __init__(self, *, paths: tuple[str, ...], key: str = "", skip_null: bool = False, strict: bool = False) -> None:
        self.paths, self.options = paths, ReadOptions(key, skip_null, strict)

    def documents(self, report: ReadReport | None = None) -> Iterator[Document]:
        return read_documents(self.paths, self.options, report)

    def cache_key(self) -> list[Any]:
        """Return name, size in bytes and modification time (ns) of each file."""
        for path in self.paths:
            if is_stream(path):
                raise UsageError("a text of a recipe must be a file or a folder", where=path, hint="use --text")
        return [[file.as_posix(), file.stat().st_size, file.stat().st_mtime_ns] for file in self._files()]

    def size(self) -> int:
        return sum(file.stat().st_size for file in self._files())

    def _files(self) -> list[Path]:
        return [found.path for found in find_files(self.paths, ReadReport())]


@register
class CommandLineText(TextSource):
    """Placeholder for the text of the option `--text`; the command replaces it by `TextFiles`."""

    def documents(self, report: ReadReport | None = None) -> Iterator[Document]:
        raise UsageError("this recipe needs a text, but none was given", hint="use --text PATH or --shards DIR")

    def cache_key(self) -> list[Any]:
        return list(self.documents())


@register
class TextSample(TextSource):
    """The documents at the start of a text, as many as are needed for `bytes` bytes; the rest is not read."""

    def __init__(self, *, text: Spec[TextSource], bytes: ByteCount) -> None:
        self.text, self.bytes = text(), bytes

    def documents(self, report: ReadReport | None = None) -> Iterator[Document]:
        total = 0
        for document in self.text.documents(report):
            yield document
            total += len(document.data)
            if total >= self.bytes:
                return

    def cache_key(self) -> list[Any]:
        return [self.bytes, *self.text.cache_key()]

    def size(self) -> int:
        return min(self.text.size() or self.bytes, self.bytes)


# ---- readers ---------------------------------------------------------------------------------------------------


def read_documents(
    paths: Iterable[Path | str], options: ReadOptions = DEFAULT_OPTIONS, report: ReadReport | None = None
) -> Iterator[Document]:
    """Yield the documents in files and folders, and count in `report` what was read and skipped.

    paths: files, folders, patterns such as `corpus/*.txt`, and `-` for standard input. A text file is one document, or
    several if it is longer than `MAX_DOCUMENT_BYTES` (see `split_long_text`). Files of records (jsonl, ndjson, json,
    csv, tsv, parquet) have a document in each record, under the key or in the column `options.key`. Files may be
    compressed (gz, bz2, xz, zst) or archives (zip, tar). Folders are read recursively in the order of their paths,
    without hidden files and files that are not text. Empty documents are skipped.
    Raises `UsageError` for a missing path, if there are no documents, or if the key has no effect; `CorruptFileError`
    for a file that cannot be decompressed; and `BitgolfError` for an invalid record, or a named file that is not text.
    """
    paths, report = list(paths), report if report is not None else ReadReport()
    before = report.documents
    check_paths(paths)
    for path, named in find_files(paths, report):
        on_disk = None if is_stream(path) else path
        start, blocks = report.bytes_read, report.count_bytes(file_blocks(path))
        yield from read_file(TextFile(path.as_posix(), blocks, named, on_disk), options, report)
        if on_disk:  # archives and Parquet files are not read from start to end
            report.bytes_read = start + path.stat().st_size
    where = ", ".join(map(str, paths)) or "(no paths)"
    if options.key and report.formats.keys().isdisjoint(FORMATS.values()):
        hint = "leave out --key, or name a jsonl, json, csv or parquet file"
        raise UsageError(f"--key {options.key} has no effect: no file has records", where=where, hint=hint)
    if report.documents == before:
        skipped = "; ".join(f"{reason}: {count}" for reason, count in report.skipped.items())
        cause = f"no documents found{f' (skipped: {skipped})' if skipped else ''}"
        raise UsageError(
            cause, where=where, hint="name files, folders or patterns with text, jsonl, json, csv or parquet"
        )


def _library_folder() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _library_files() -> Iterator[Path]:
    return (file for file in walk(_library_folder(), SKIPPED_FOLDERS) if file.suffix == ".py")


def python_library() -> Iterator[Document]:
    """Yield the source files of the standard library (about 12 MB), sorted by relative path.

    Tests and installed packages are left out. Raises `BitgolfError` if this Python has no such files.
    """
    root, found = _library_folder(), False
    for file in _library_files():
        if data := file.read_bytes():
            found = True
            yield Document(file.relative_to(root).as_posix(), data)
    if not found:
        message = "this Python has no source files of the standard library"
        raise BitgolfError(message, where=str(root), hint="use --text PATH")
