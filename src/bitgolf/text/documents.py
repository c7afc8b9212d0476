"""Documents: raw bytes with a name, read from files and folders, and split into training and validation.

The split of a document depends on its content, so equal documents are always in the same one.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import sys
import sysconfig
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import zstandard

from bitgolf.config.registry import register
from bitgolf.errors import BitgolfError, CorruptFileError, UsageError

TEXT_SUFFIXES = frozenset({".txt", ".md", ".rst", ".py"})
JSONL_SUFFIX = ".jsonl"
COMPRESSED_SUFFIXES = frozenset({".zst", ".gz", ".xz"})
MAX_DOCUMENT_BYTES = 1 << 16  # longer text files are split into several documents
SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
_BLOCK_BYTES = 1 << 20  # per read


class Document(NamedTuple):
    """A text. name: its origin, for messages; data: its raw bytes, which need not be valid UTF-8."""

    name: str
    data: bytes


# ---- sources that a recipe may name ----------------------------------------------------------------------------


class TextSource(ABC):
    """Base class of the text sources that a recipe may name."""

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """Yield the documents. Raises `UsageError` if there are none."""

    @abstractmethod
    def cache_key(self) -> list[Any]:
        """Return JSON values that change when the text changes, determined without reading the text."""


@register
class PythonStandardLibrary(TextSource):
    """The source files of the running Python's standard library, which exist on every machine."""

    def documents(self) -> Iterator[Document]:
        return python_library()

    def cache_key(self) -> list[Any]:
        return [sys.version]


@register
class TextFiles(TextSource):
    """Text files and folders, in the given order."""

    def __init__(self, *, paths: tuple[str, ...]) -> None:
        self.paths = paths

    def documents(self) -> Iterator[Document]:
        return read_documents(self.paths)

    def cache_key(self) -> list[Any]:
        """Return name, size in bytes and modification time (ns) of each file."""
        files = [file for path in self.paths for file in _files(Path(path))]
        return [[file.as_posix(), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


@register
class CommandLineText(TextSource):
    """Placeholder for the text of the option `--text`; the command replaces it by `TextFiles`."""

    def documents(self) -> Iterator[Document]:
        raise UsageError("this recipe needs a text, but none was given", hint="use --text PATH or --shards DIR")

    def cache_key(self) -> list[Any]:
        return list(self.documents())


# ---- readers ---------------------------------------------------------------------------------------------------


def read_documents(paths: Iterable[Path | str]) -> Iterator[Document]:
    """Yield the documents in files and folders.

    A .txt, .md, .rst or .py file is one document, or several if it is longer than `MAX_DOCUMENT_BYTES` (see
    `split_long_document`). In a .jsonl file each line is an object with a document under the key `text`. Files may be
    compressed (.zst, .gz, .xz). Folders are read recursively in the order of their paths, without hidden files and
    files of other suffixes; a file that is named directly is read as plain text if it has another suffix. Empty
    documents are skipped. Raises `UsageError` for a missing path or if there are no documents, `CorruptFileError` for
    a file that cannot be decompressed, and `BitgolfError` for an invalid line of a .jsonl file.
    """
    paths = [Path(path) for path in paths]
    found = False
    for path in paths:
        for file in _files(path):
            for document in _read_file(file):
                found = True
                yield document
    if not found:
        named = ", ".join(map(str, paths)) or "(no paths)"
        raise UsageError(
            "no documents found", where=named, hint="name files, or folders with .txt, .md, .rst, .py or .jsonl files"
        )


def python_library() -> Iterator[Document]:
    """Yield the source files of the standard library (about 12 MB), sorted by relative path.

    Tests and installed packages are left out. Raises `BitgolfError` if this Python has no such files.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    found = False
    for file in _walk(root, SKIPPED_FOLDERS):
        if file.suffix == ".py" and (data := file.read_bytes()):
            found = True
            yield Document(file.relative_to(root).as_posix(), data)
    if not found:
        message = "this Python has no source files of the standard library"
        raise BitgolfError(message, where=str(root), hint="use --text PATH")


def split_long_document(data: bytes, longest: int = MAX_DOCUMENT_BYTES) -> Iterator[bytes]:
    """Split `data` into pieces of at most `longest` bytes, whose concatenation is `data`.

    A piece ends after the last empty line in its second half, otherwise after the last line there, otherwise between
    two UTF-8 characters.
    """
    start = 0
    while len(data) - start > longest:
        window = start + longest // 2, start + longest
        if (end := data.rfind(b"\n\n", *window) + 2) < 2 and (end := data.rfind(b"\n", *window) + 1) < 1:
            end = start + longest
            while end > start + longest - 3 > start and data[end] & 0xC0 == 0x80:
                end -= 1
        yield data[start:end]
        start = end
    yield data[start:]


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in _walk(path) if _inner_suffix(file) in (*TEXT_SUFFIXES, JSONL_SUFFIX))
    elif path.exists():
        yield path
    else:
        raise UsageError("no such file or folder", where=str(path))


def _walk(folder: Path, without: AbstractSet[str] = frozenset()) -> list[Path]:
    """Return the files under a folder, sorted by relative path; hidden files and folders are left out.

    without: names of folders to leave out. Symbolic links to folders are not followed.
    """
    files: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in without]
        files += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def _inner_suffix(file: Path) -> str:
    """Return the suffix in lower case, without that of compression: `.jsonl` for `a.jsonl.zst`."""
    return (Path(file.stem).suffix if file.suffix.lower() in COMPRESSED_SUFFIXES else file.suffix).lower()


def _read_file(file: Path) -> Iterator[Document]:
    if _inner_suffix(file) == JSONL_SUFFIX:
        yield from _read_lines(file)
        return
    pieces = list(split_long_document(b"".join(_blocks(file))))
    for i, data in enumerate(pieces):
        if data:
            yield Document(file.as_posix() if len(pieces) == 1 else f"{file.as_posix()}#{i}", data)


def _read_lines(file: Path) -> Iterator[Document]:
    for number, line in enumerate(_split_lines(_blocks(file)), 1):
        if not line.strip():
            continue
        where = f"{file.as_posix()}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BitgolfError(f"the line is not JSON ({error})", where=where) from error
        if not isinstance(value, dict) or not isinstance(value.get("text"), str):
            raise BitgolfError("the line is not a JSON object with a string under the key 'text'", where=where)
        if value["text"]:
            yield Document(where, value["text"].encode("utf-8", "surrogatepass"))


def _split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    yield rest


def _blocks(file: Path) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file in blocks."""
    try:
        with _open(file) as handle:
            blocks = iter(lambda: handle.read(_BLOCK_BYTES), b"")
            yield from _unzstd(blocks) if file.suffix.lower() == ".zst" else blocks
    except (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, gzip.BadGzipFile) as error:
        raise CorruptFileError(f"the file cannot be decompressed ({error})", where=str(file)) from error
    except OSError as error:
        raise BitgolfError(f"the file cannot be read ({error.strerror or error})", where=str(file)) from error


def _open(file: Path) -> IO[bytes]:
    if file.suffix.lower() == ".gz":
        return cast("IO[bytes]", gzip.open(file))
    if file.suffix.lower() == ".xz":
        return cast("IO[bytes]", lzma.open(file))
    return file.open("rb")


def _unzstd(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress consecutive zstd frames. Raises `EOFError` if the last one is truncated.

    zstandard's own reader accepts a truncated file.
    """
    frame = None
    for block in blocks:
        while block:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(block)
            block = frame.unused_data
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last zstd frame is truncated")


# ---- by content ------------------------------------------------------------------------------------------------


def document_fingerprint(data: bytes) -> bytes:
    """Return 8 bytes of SHA-256 over the document's words, so that differences in white space do not matter."""
    return hashlib.sha256(b" ".join(data.split())).digest()[:8]


def train_validation_split(
    documents: Iterable[Document], fraction: float = 0.05
) -> tuple[list[Document], list[Document]]:
    """Return (training, validation): the distinct documents, each list in the given order.

    A document belongs to validation if its fingerprint, as a number in [0, 1), is below `fraction`. If a split would be
    empty, as may happen with few documents, the document with the closest fingerprint is moved into it.
    Raises `BitgolfError` for fewer than two distinct documents, `UsageError` if `fraction` is outside (0, 1).
    """
    if not 0 < fraction < 1:
        raise UsageError(f"the held-out fraction must be between 0 and 1, both excluded, got {fraction}")
    distinct: dict[bytes, Document] = {}
    for document in documents:
        distinct.setdefault(document_fingerprint(document.data), document)
    if len(distinct) < 2:
        raise BitgolfError(
            f"{len(distinct)} distinct documents cannot be split into training and validation",
            where=", ".join(document.name for document in distinct.values()),
            hint="name more files, or a .jsonl file with one document per line",
        )
    count = sum(_unit_interval(key) < fraction for key in distinct)
    validation = set(sorted(distinct)[: min(max(count, 1), len(distinct) - 1)])
    training = [document for key, document in distinct.items() if key not in validation]
    return training, [document for key, document in distinct.items() if key in validation]


def _unit_interval(key: bytes) -> float:
    return int.from_bytes(key, "big") / 2.0**64
