"""Documents: raw bytes with a name, read from files and folders, and split by their content.

A document's side (training or validation) is a function of its content alone, so equal documents cannot be torn apart.
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
MAX_DOCUMENT_BYTES = 1 << 16  # bytes: a longer plain file is read as several documents
SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
_BLOCK_BYTES = 1 << 20  # read at a time


class Document(NamedTuple):
    """One text: where it comes from, and its raw bytes, which need not be valid UTF-8."""

    name: str
    data: bytes


# ---- sources that a recipe may name ----------------------------------------------------------------------------


class TextSource(ABC):
    """Where a recipe's text comes from."""

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """The documents, one by one. Raises `UsageError` where there is no text."""

    @abstractmethod
    def cache_key(self) -> list[Any]:
        """JSON values that change when the text does, found without reading it."""


@register
class PythonStandardLibrary(TextSource):
    """The source of the running Python's standard library: text that every machine already has."""

    def documents(self) -> Iterator[Document]:
        return python_library()

    def cache_key(self) -> list[Any]:
        return [sys.version]


@register
class TextFiles(TextSource):
    """Text files and folders, in the order named."""

    def __init__(self, *, paths: tuple[str, ...]) -> None:
        self.paths = paths

    def documents(self) -> Iterator[Document]:
        return read_documents(self.paths)

    def cache_key(self) -> list[Any]:
        """Name, size and time of each file: what tells, without reading them, that they are still the same."""
        files = [file for path in self.paths for file in _files(Path(path))]
        return [[file.as_posix(), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


@register
class CommandLineText(TextSource):
    """The text that the command line names; whoever starts a run puts `TextFiles` in its place."""

    def documents(self) -> Iterator[Document]:
        raise UsageError("this recipe needs a text, and none was given", hint="--text PATH or --shards DIR")

    def cache_key(self) -> list[Any]:
        return list(self.documents())


# ---- readers ---------------------------------------------------------------------------------------------------


def read_documents(paths: Iterable[Path | str]) -> Iterator[Document]:
    """The documents in files and folders, one by one.

    txt, md, rst, py: a file is a document, or several where it is longer than `MAX_DOCUMENT_BYTES` (see `split_long_document`); jsonl: a line is,
    under its key `text`. Each may be packed (.zst, .gz, .xz). Folders are read recursively in the order of their paths,
    without hidden files and unknown suffixes; a file named directly is plain text unless its suffix says otherwise.
    Empty documents are skipped. Raises `UsageError` for a missing path and for no documents at all, `CorruptFileError` for a
    file that does not unpack, `BitgolfError` for a bad line.
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
            "there are no documents", where=named, hint="name files or folders of txt, md, rst, py or jsonl"
        )


def python_library() -> Iterator[Document]:
    """The standard library's own source files (about 12 MB), sorted by relative name, tests and installed packages left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = False
    for file in _walk(root, SKIPPED_FOLDERS):
        if file.suffix == ".py" and (data := file.read_bytes()):
            found = True
            yield Document(file.relative_to(root).as_posix(), data)
    if not found:
        raise BitgolfError("this Python has no source files of its library", where=str(root), hint="--text PATH")


def split_long_document(data: bytes, longest: int = MAX_DOCUMENT_BYTES) -> Iterator[bytes]:
    """`data` in pieces of at most `longest` bytes; joined they are `data` again.

    It is cut in the second half of each piece: after its last empty line, else after its last line, else between characters.
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
        raise UsageError("there is no such file or folder", where=str(path))


def _walk(folder: Path, without: AbstractSet[str] = frozenset()) -> list[Path]:
    """Every file under a folder that is not hidden, nor in a hidden folder or one of those names; links are not followed."""
    files: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in without]
        files += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def _inner_suffix(file: Path) -> str:
    """The suffix below that of packing: `.jsonl` of `a.jsonl.zst`."""
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
        place = f"{file.as_posix()}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BitgolfError(f"the line is not JSON ({error})", where=place) from error
        if not isinstance(value, dict) or not isinstance(value.get("text"), str):
            raise BitgolfError("the line is not an object with a string under 'text'", where=place)
        if value["text"]:
            yield Document(place, value["text"].encode("utf-8", "surrogatepass"))


def _split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    yield rest


def _blocks(file: Path) -> Iterator[bytes]:
    """The unpacked bytes of a file, a block at a time."""
    try:
        with _open(file) as handle:
            blocks = iter(lambda: handle.read(_BLOCK_BYTES), b"")
            yield from _unzstd(blocks) if file.suffix.lower() == ".zst" else blocks
    except (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, gzip.BadGzipFile) as error:
        raise CorruptFileError(f"the file does not unpack ({error})", where=str(file)) from error
    except OSError as error:
        raise BitgolfError(f"the file cannot be read ({error.strerror or error})", where=str(file)) from error


def _open(file: Path) -> IO[bytes]:
    if file.suffix.lower() == ".gz":
        return cast("IO[bytes]", gzip.open(file))
    if file.suffix.lower() == ".xz":
        return cast("IO[bytes]", lzma.open(file))
    return file.open("rb")


def _unzstd(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Unpack zstd frames, one after the other. zstandard's own reader takes a truncated file for a complete one."""
    frame = None
    for block in blocks:
        while block:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(block)
            block = frame.unused_data
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("it ends before its last frame does")


# ---- by content ------------------------------------------------------------------------------------------------


def document_fingerprint(data: bytes) -> bytes:
    """8 bytes of SHA-256 over the document's words: documents that differ in white space only are the same document."""
    return hashlib.sha256(b" ".join(data.split())).digest()[:8]


def train_validation_split(
    documents: Iterable[Document], fraction: float = 0.05
) -> tuple[list[Document], list[Document]]:
    """(training, validation), each in the order given, of every document once.

    A document belongs to validation where its fingerprint, read as a number in [0, 1), is below `fraction`. Where that
    would leave a side empty (it does, of a handful of documents), the document nearest to it changes sides.
    Raises `BitgolfError` for fewer than two distinct documents, `UsageError` for a fraction outside (0, 1).
    """
    if not 0 < fraction < 1:
        raise UsageError(f"the held-out fraction {fraction} is not between 0 and 1")
    distinct: dict[bytes, Document] = {}
    for document in documents:
        distinct.setdefault(document_fingerprint(document.data), document)
    if len(distinct) < 2:
        raise BitgolfError(
            f"{len(distinct)} distinct documents cannot be split into training and validation",
            where=", ".join(document.name for document in distinct.values()),
            hint="name more text: more files, or one document a line in a .jsonl",
        )
    count = sum(_unit_interval(key) < fraction for key in distinct)
    validation = set(sorted(distinct)[: min(max(count, 1), len(distinct) - 1)])
    training = [document for key, document in distinct.items() if key not in validation]
    return training, [document for key, document in distinct.items() if key in validation]


def _unit_interval(key: bytes) -> float:
    return int.from_bytes(key, "big") / 2.0**64
