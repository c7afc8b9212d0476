"""The text that a call is given: as it is, as documents, or as files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from bitgolf.api.paths import AnyPath, optional_path
from bitgolf.artifact.model import LoadedArtifact
from bitgolf.commands.artifacts import SourceText, check_source, open_text
from bitgolf.errors import UsageError
from bitgolf.score.text import TokenizedText, tokenize_documents
from bitgolf.text.document import split_long_document
from bitgolf.text.read_report import ReadOptions

Text: TypeAlias = str | bytes | Path | Sequence[str | bytes] | Sequence[Path]
Buffer: TypeAlias = bytes | bytearray | memoryview
WHOLE_TEXT = (str, bytes, bytearray, memoryview)
"""Types of a text that is cut into documents like a file."""
LONGEST_NAME = 1000
"""Characters of a `str` up to which it is checked whether it is the name of a file."""


def open_source(
    loaded: LoadedArtifact, text: Text | None, shards: AnyPath | None, tokenizer: AnyPath | None, key: str
) -> TokenizedText:
    """Tokenize what a score was given: documents, files of text, or validation shards.

    Raises `UsageError` unless exactly one of `text` and `shards` is given, and if there is nothing to score.
    """
    if (text is None) == (shards is None):
        raise UsageError(f"give exactly one of text and shards, got {'neither' if text is None else 'both'}")
    items = tuple(text) if isinstance(text, Iterable) and not isinstance(text, WHOLE_TEXT) else (text,)
    paths = tuple(item.expanduser() for item in items if isinstance(item, Path))
    if paths and len(paths) < len(items):
        raise UsageError("a list has either documents or paths, this one has both", where="text")
    if text is not None and not paths:
        if key or tokenizer:
            raise UsageError(
                "key and tokenizer have no effect on a text in memory", where="text", hint="leave them out"
            )
        return tokenize_documents(_documents(text, items), loaded.tokenizer)
    source = SourceText(paths, optional_path(shards), ReadOptions(key), optional_path(tokenizer))
    check_source(source)
    return open_text(source, loaded).text


def _documents(text: object, items: Sequence[object]) -> list[bytes]:
    """The documents that are not empty. A text that is no list is cut like a file. Raises `UsageError` for none."""
    if items and all(_names_a_file(item) for item in items):
        message = f"the text is the name of a file, {items[0]!r}"
        raise UsageError(message, where="text", hint="give Path(...) for its contents, or bytes for the name itself")
    given = list(map(to_bytes, items))
    pieces = list(split_long_document(given[0])) if isinstance(text, WHOLE_TEXT) else given
    if not (found := [piece for piece in pieces if piece]):
        raise UsageError("there is no text to score: every document is empty", where="text")
    return found


def _names_a_file(item: object) -> bool:
    if not isinstance(item, str) or not 0 < len(item) < LONGEST_NAME or "\n" in item or "\0" in item:
        return False
    try:
        return Path(item).exists()
    except OSError:  # a name that is too long for the file system
        return False


def to_bytes(text: object) -> bytes:
    """Return a text as bytes, a `str` in UTF-8. Raises `UsageError` for other types, and for half a surrogate pair."""
    if not isinstance(text, str):
        return as_bytes(text)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        message = f"the text has a character without UTF-8 form, {text[error.start]!r} at {error.start}"
        raise UsageError(message, where="text", hint="give bytes") from error


def as_bytes(data: object) -> bytes:
    """Return the contents of a bytes-like object. Raises `UsageError` for any other."""
    if not isinstance(data, bytes | bytearray | memoryview):
        message = f"expected bytes, got {type(data).__name__}"
        raise UsageError(message, hint="`text.encode()` makes bytes of a str")
    return bytes(data)
