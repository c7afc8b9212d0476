"""Documents in one column of a table: CSV, TSV and Parquet."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import IO

from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.text.document import Document
from bitgolf.text.records import RecordReader, split_lines

_ROWS_PER_BATCH = 64  # of a Parquet file
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_table(blocks: Iterable[bytes], reader: RecordReader, delimiter: str) -> Iterator[Document]:
    """Yield the documents in one column of a CSV or TSV file, whose first row has the names of the columns."""
    csv.field_size_limit(sys.maxsize)
    rows = csv.reader(_csv_lines(blocks), delimiter=delimiter, strict=True)
    names: list[str] = []
    column = 0
    try:
        for row in rows:
            where = f"{reader.name}:{rows.line_num}"
            if not row:
                continue
            if not names:
                names, column = row, _column(row, reader, where)
            elif len(row) != len(names):
                cause = f"the row has {len(row)} columns, but the first row has {len(names)}"
                hint = "put fields with line breaks, quotes or delimiters in double quotes"
                raise BitgolfError(cause, where=where, hint=hint)
            elif document := reader.text(row[column].encode("utf-8", "surrogateescape"), where):
                yield document
    except csv.Error as error:
        where = f"{reader.name}:{rows.line_num}"
        raise BitgolfError(
            f"the row is not valid CSV ({error})", where=where, hint="double the quotes in a quoted field"
        ) from error


def _csv_lines(blocks: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines with their line feeds. Invalid UTF-8 is kept as surrogates."""
    held: bytes | None = None
    for line in split_lines(blocks):
        if held is None:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        else:
            yield (held + b"\n").decode("utf-8", "surrogateescape")
        held = line
    if held:
        yield held.decode("utf-8", "surrogateescape")


def _column(names: list[str], reader: RecordReader, where: str) -> int:
    """Return the index of the column of text."""
    if (key := reader.choose_key(names)) is None:
        raise reader.no_key(names, where)
    if names.count(key) != 1:
        found = "is missing" if key not in names else f"is there {names.count(key)} times"
        hint = f"the columns are {', '.join(map(repr, names))}; name one with --key NAME"
        raise BitgolfError(f"the column {key!r} {found}", where=where, hint=hint)
    return names.index(key)


def read_parquet(handle: IO[bytes], reader: RecordReader) -> Iterator[Document]:
    """Yield the documents in one column of a Parquet file. Needs the extra `parquet`."""
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        hint = "pip install 'bitgolf[parquet]', or convert the file to jsonl"
        raise BitgolfError("Parquet files need the package pyarrow", where=reader.name, hint=hint) from error
    arrow_error: type[Exception] = import_module("pyarrow").ArrowException
    number = 0
    try:
        table = parquet.ParquetFile(handle)
        names = list(table.schema_arrow.names)
        column = names[_column(names, reader, reader.name)]
        for batch in table.iter_batches(batch_size=_ROWS_PER_BATCH, columns=[column]):
            for value in batch.column(0).to_pylist():
                if document := reader.value(value, names, f"{reader.name}[{number}]"):
                    yield document
                number += 1
    except (arrow_error, OSError) as error:
        raise CorruptFileError(f"the Parquet file cannot be read ({error})", where=reader.name) from error
