"""Documents in records, and lines of JSON records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from bitgolf.errors import BitgolfError
from bitgolf.text.content import UnreadableFormat
from bitgolf.text.document import Document
from bitgolf.text.read_report import ReadOptions, ReadReport

GUESSED_KEYS = ("text", "content")
"""Keys and columns that are tried in this order if the user names none."""
_DECODER = msgspec.json.Decoder()


class RecordReader:
    """Takes the documents from the records of one file. The first record determines their kind and their key."""

    def __init__(self, name: str, options: ReadOptions, report: ReadReport) -> None:
        self.name, self.options, self.report = name, options, report
        self.key = options.key  # "" until the first record
        self._strings: bool | None = None  # whether the records are strings; None before the first one

    def choose_key(self, names: Sequence[str]) -> str | None:
        """Return the key that the user named, or one of `GUESSED_KEYS` if it is in `names`, which is reported."""
        if self.key:
            return self.key
        self.key = next((key for key in GUESSED_KEYS if key in names), "")
        if self.key:
            self.report.guess(self.key, self.name)
        return self.key or None

    def document(self, record: Any, where: str) -> Document | None:
        """Return the document in a record, None if it is skipped. Raises `BitgolfError` if there is none."""
        if self._strings is None:
            self._strings = isinstance(record, str) and not self.options.key
        if self._strings and isinstance(record, str):
            return self.text(record, where)
        if self._strings or not isinstance(record, dict):
            wanted = "a string like those before it" if self._strings else "an object"
            raise BitgolfError(
                f"not a JSON object with a document: {json_kind(record)} instead of {wanted}", where=where
            )
        if (key := self.choose_key(list(record))) is None:
            raise self.no_key(list(record), where)
        return self.value(record.get(key), list(record), where)

    def value(self, value: Any, names: Sequence[str], where: str) -> Document | None:
        """Return the document for a value under the key of the file; None if it is empty, or null and skipped."""
        if isinstance(value, str | bytes):
            return self.text(value, where)
        if value is None and self.options.skip_null:
            self.report.skip(f"no text under {self.key!r}", where)
            return None
        found = (
            "is null" if value is None and self.key in names else "is missing" if value is None else json_kind(value)
        )
        found = f"is {found}" if value is not None else found
        hint = f"the keys are {', '.join(map(repr, names)) or 'none'}; name the one that holds a string with --key NAME"
        hint += ", or skip such records with --skip-null" if value is None else ""
        raise BitgolfError(
            f"not a JSON object with a string under the key: {self.key!r} {found}", where=where, hint=hint
        )

    def text(self, text: str | bytes, where: str) -> Document | None:
        """Return the document for a text; None if it is empty."""
        if not text:
            self.report.skip("empty document", where)
            return None
        return Document(where, text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))

    def no_key(self, names: Sequence[str], where: str) -> UnreadableFormat:
        """The error that no key was named, and none can be guessed."""
        found = ", ".join(map(repr, names)) or "none"
        message = f"not a record with a key {' or '.join(map(repr, GUESSED_KEYS))}, got the keys {found}"
        return UnreadableFormat("no key or column of text", message, where=where, hint="name it with --key NAME")


def json_kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


# ---- JSON lines ------------------------------------------------------------------------------------------------


def read_json_lines(blocks: Iterable[bytes], reader: RecordReader) -> Iterator[Document]:
    """Yield the documents in lines of JSON: objects with a string under the key, or strings."""
    for number, line in enumerate(split_lines(blocks), 1):
        if not line.strip():
            continue
        where = f"{reader.name}:{number}"
        try:
            record = parse_json(line)
        except (ValueError, RecursionError) as error:
            raise BitgolfError(f"the line is not JSON ({error})", where=where) from error
        try:
            document = reader.document(record, where)
        except UnreadableFormat as error:  # the suffix promises documents, so it is an error in a folder, too
            raise BitgolfError(error.message, where=where, hint=error.hint) from error
        if document:
            yield document


def parse_json(data: bytes) -> Any:
    """Return the value of `json.loads`, in a third of its time for JSON that msgspec can read.

    Only `json.loads` accepts lone surrogates, NaN and UTF-16. Raises `ValueError` or `RecursionError`.
    """
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return json.loads(data)


def split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines without their line feeds; the last one may be empty. Takes linear time for lines of any length."""
    held: list[bytes] = []
    for block in blocks:
        first, *others = block.split(b"\n")
        held.append(first)
        for line in others:
            yield b"".join(held)
            held = [line]
    yield b"".join(held)
