"""Documents in a JSON array, which is decoded one element at a time."""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from bitgolf.errors import BitgolfError
from bitgolf.text.content import UnreadableFormat
from bitgolf.text.document import Document
from bitgolf.text.records import RecordReader, json_kind

_SPACE = re.compile(r"[ \t\n\r]*")


def read_json_array(blocks: Iterable[bytes], reader: RecordReader) -> Iterator[Document]:
    """Yield the documents in a JSON array of objects or strings; holds one element in memory.

    Raises `UnreadableFormat` if the file is JSON of another form.
    """
    for number, record in enumerate(json_elements(blocks, reader.name)):
        if number == 0 and not isinstance(record, dict | str):
            raise _not_an_array(f"its first element is {json_kind(record)}", reader.name)
        if document := reader.document(record, f"{reader.name}[{number}]"):
            yield document


def json_elements(blocks: Iterable[bytes], name: str) -> Iterator[Any]:
    """Yield the elements of a JSON array, decoded one at a time. Raises `BitgolfError` for invalid JSON."""
    buffer = _CharBuffer(blocks, name)
    if (first := buffer.next_char()) != "[":
        raise _not_an_array(f"it begins with {first!r}" if first else "it is empty", name)
    if buffer.next_char() == "]":
        buffer.end()
        return
    buffer.at -= 1
    for number in range(sys.maxsize):
        yield buffer.value(f"{name}[{number}]")
        if (separator := buffer.next_char()) not in (",", "]"):
            found = repr(separator) if separator else "the end of the file"
            raise BitgolfError(f"the file is not JSON (',' or ']' expected, got {found})", where=f"{name}[{number}]")
        if separator == "]":
            buffer.end()
            return


class _CharBuffer:
    """Text that is decoded from blocks. at: position of the next character."""

    def __init__(self, blocks: Iterable[bytes], name: str) -> None:
        self._blocks, self._name = iter(blocks), name
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.at, self._ended = "", 0, False

    def _read(self) -> bool:
        """Append at least as much as there is, so that repeated attempts take linear time. False at the end."""
        parts, missing = [self.text[self.at :]], max(len(self.text) - self.at, 1)
        while missing > 0 and not self._ended:
            block = next(self._blocks, None)
            self._ended = block is None
            try:
                parts.append(self._decoder.decode(block or b"", final=self._ended))
            except UnicodeDecodeError as error:
                raise BitgolfError(f"the file is not JSON ({error})", where=self._name) from error
            missing -= len(parts[-1])
        grown = any(parts[1:])
        self.text, self.at = "".join(parts), 0
        return grown

    def next_char(self) -> str:
        """Return the next character that is not white space, and step over it; "" at the end."""
        while True:
            if match := _SPACE.match(self.text, self.at):
                self.at = match.end()
            if self.at < len(self.text):
                self.at += 1
                return self.text[self.at - 1]
            if not self._read():
                return ""

    def value(self, where: str) -> Any:
        """Return the next JSON value."""
        while True:
            if match := _SPACE.match(self.text, self.at):
                self.at = match.end()
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
                size = end - self.at
                if not self._may_go_on(value, end) or not self._read():
                    self.at += size
                    return value
            except (ValueError, RecursionError) as error:
                if not (self._is_cut(error) and self._read()):
                    raise BitgolfError(f"the element is not JSON ({error})", where=where) from error

    def _may_go_on(self, value: Any, end: int) -> bool:
        """Whether the value that ends at `end` may be the beginning of a longer number."""
        return isinstance(value, int | float) and self.text[end : end + 1] not in _AFTER_NUMBER

    def _is_cut(self, error: Exception) -> bool:
        """Whether more text may complete the value: only its end is missing."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated string") or error.pos > len(self.text) - _LONGEST_TOKEN

    def end(self) -> None:
        """Raise `BitgolfError` if anything but white space follows."""
        if char := self.next_char():
            raise BitgolfError(f"the file is not JSON ({char!r} after the end of the array)", where=self._name)


_DECODER = json.JSONDecoder()
_AFTER_NUMBER = frozenset(" \t\n\r,]}")
_LONGEST_TOKEN = 16  # characters of a cut escape or literal, at whose start an error is reported


def _not_an_array(cause: str, name: str) -> UnreadableFormat:
    message = f"the file is not a JSON array of objects or strings: {cause}"
    hint = "name a file with one JSON object per line .jsonl"
    return UnreadableFormat("JSON of another form", message, where=name, hint=hint)
