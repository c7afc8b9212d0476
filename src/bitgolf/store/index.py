"""An index of the runs below a folder in SQLite. It holds nothing that the folders do not, so it can always be rebuilt."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from bitgolf.store.entry import RunEntry, is_run, read_entry, signature

INDEX_FILE = "index.sqlite"
INDEX_FORMAT = 2
DEEPEST = 3
"""Levels of folders below the store at which runs are found: those of a sweep are in a folder of their own."""


def read_store(root: Path) -> list[RunEntry]:
    """Return the entries of all runs below a folder, in the order of their names.

    A run whose files did not change is read from the index. An index that is damaged or of another version is made
    anew, and one that cannot be written is not used.
    """
    folders = {folder.relative_to(root).as_posix(): folder for folder in run_folders(root)}
    known = _read_index(root / INDEX_FILE)
    signatures = {name: signature(folder) for name, folder in folders.items()}
    entries = dict[str, RunEntry]()
    for name, folder in folders.items():
        stored = known.get(name)
        entries[name] = stored[1] if stored and stored[0] == signatures[name] else read_entry(folder, name)
    if known != {name: (signatures[name], entry) for name, entry in entries.items()}:
        _write_index(root / INDEX_FILE, signatures, entries)
    return list(entries.values())


def run_folders(root: Path, depth: int = DEEPEST) -> Iterator[Path]:
    """Yield the folders of runs below `root`, sorted by name. Folders inside of a run are not searched."""
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
            if entry.is_dir() and not entry.name.startswith("."):
                folder = Path(entry.path)
                if is_run(folder):
                    yield folder
                elif depth > 1:
                    yield from run_folders(folder, depth - 1)


def _read_index(path: Path) -> dict[str, tuple[str, RunEntry]]:
    """Return name -> (signature, entry); nothing if there is no usable index."""
    if not path.exists():
        return {}
    try:
        with closing(sqlite3.connect(path)) as database:
            if database.execute("PRAGMA user_version").fetchone()[0] != INDEX_FORMAT:
                return {}
            rows = database.execute("SELECT folder, signature, entry FROM runs").fetchall()
        return {name: (text, msgspec.json.decode(entry, type=RunEntry)) for name, text, entry in rows}
    except (sqlite3.Error, msgspec.MsgspecError, TypeError):
        return {}


def _write_index(path: Path, signatures: dict[str, str], entries: dict[str, RunEntry]) -> None:
    """Replace the index. Another program may read it meanwhile: it sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with closing(sqlite3.connect(temporary)) as database:
            database.execute(f"PRAGMA user_version = {INDEX_FORMAT}")
            database.execute("CREATE TABLE runs (folder TEXT PRIMARY KEY, signature TEXT, entry BLOB)")
            rows = [(name, signatures[name], msgspec.json.encode(entry)) for name, entry in entries.items()]
            database.executemany("INSERT INTO runs VALUES (?, ?, ?)", rows)
            database.commit()
        temporary.replace(path)
    except (sqlite3.Error, OSError):
        with suppress(OSError):
            temporary.unlink()
