"""What was read from files and folders: counts, and everything that was skipped, converted or guessed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from bitgolf.errors import printable

FIRST_NAMES = 3
"""Number of names that the report keeps for each reason."""


class NamedCount(msgspec.Struct):
    """A number of files or documents. first: the names of the first ones."""

    count: int = 0
    first: list[str] = msgspec.field(default_factory=list)

    def add(self, name: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < FIRST_NAMES:
            self.first.append(name)

    def __str__(self) -> str:
        more = f" and {self.count - len(self.first):,} more" if self.count > len(self.first) else ""
        return f"{self.count:,} ({', '.join(map(printable, self.first))}{more})"


class ReadOptions(msgspec.Struct, frozen=True):
    """How text is read.

    key: the key or column of records that holds the text; "" to guess. skip_null: skip records without it. strict: a file
    that is not text is an error in a folder, too.
    """

    key: str = ""
    skip_null: bool = False
    strict: bool = False

    def words(self) -> list[str]:
        """Return the options that differ from the default, as on the command line."""
        key = [f"--key {self.key}"] if self.key else []
        return key + [name for name, given in (("--skip-null", self.skip_null), ("--strict", self.strict)) if given]


DEFAULT_OPTIONS = ReadOptions()


class ReadReport(msgspec.Struct):
    """Counts of one reading of text; the reader adds to them.

    files: files and members of archives that were read, by `formats` too. documents: documents that were read, before
    duplicates are dropped. skipped: by reason, files or documents that were not read. duplicates: documents that were
    dropped because another one has the same bytes. converted: by encoding, files that were converted to UTF-8.
    guessed_keys: by key, files whose key or column was guessed. bytes_read: of files, before decompression.
    """

    files: int = 0
    documents: int = 0
    formats: dict[str, int] = msgspec.field(default_factory=dict)
    skipped: dict[str, NamedCount] = msgspec.field(default_factory=dict)
    duplicates: int = 0
    converted: dict[str, NamedCount] = msgspec.field(default_factory=dict)
    guessed_keys: dict[str, NamedCount] = msgspec.field(default_factory=dict)
    bytes_read: int = 0

    def count_bytes(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the blocks of a file, and count their bytes."""
        for block in blocks:
            self.bytes_read += len(block)
            yield block

    def count_file(self, format: str) -> None:
        """Count a file that is read as `format`."""
        self.files += 1
        self.formats[format] = self.formats.get(format, 0) + 1

    def skip(self, reason: str, name: str) -> None:
        """Count a file or document that is not read."""
        self.skipped.setdefault(reason, NamedCount()).add(name)

    def convert(self, encoding: str, name: str) -> None:
        """Count a file that is converted to UTF-8."""
        self.converted.setdefault(encoding, NamedCount()).add(name)

    def guess(self, key: str, name: str) -> None:
        """Count a file whose key was guessed."""
        self.guessed_keys.setdefault(key, NamedCount()).add(name)

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        kinds = ", ".join(f"{count:,} {format}" for format, count in sorted(self.formats.items()))
        lines = [
            f"read {_number(self.documents, 'document')} from {_number(self.files, 'file')}{f' ({kinds})' if kinds else ''}"
        ]
        lines += [f"key {key!r} was guessed for {count}" for key, count in self.guessed_keys.items()]
        lines += [f"converted from {encoding} to UTF-8: {count}" for encoding, count in self.converted.items()]
        lines += [f"skipped, {reason}: {count}" for reason, count in self.skipped.items()]
        if self.duplicates:
            lines.append(f"dropped {_number(self.duplicates, 'document')} with the same bytes as an earlier one")
        return lines


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
