"""A record folder: its files, scripts and logs, each read once, at most `LARGEST_TEXT` bytes of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from bitgolf.errors import UsageError
from bitgolf.submission.packed_code import unpack
from bitgolf.submission.source import Source

LARGEST_TEXT = 16_000_000
"""Bytes of a script or log that are read. A longer file is cut here."""
MOST_FILES, DEEPEST = 2_000, 4
"""Files of a folder that are considered, and levels of folders."""
MOST_SEARCHED = 20_000
"""Folders among which record folders are searched: more are a whole file system, named by mistake."""
CLAIMS = "submission.json"
SCRIPT = re.compile(r"train[\w.-]*\.py")
LOG_SUFFIXES = {".log", ".txt", ".out"}
NOT_LOGS = re.compile(r"requirements.*|license.*|readme.*|notes?.*|.*vocab.*|copying.*", re.IGNORECASE)


class RecordFolder:
    """The files of a record folder. Nothing in it is imported or executed.

    root: the folder. files: the paths of its files, relative to `root`, sorted. Links that lead out of the folder are
    left out.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = sorted(_files(root))

    def read(self, name: Path) -> str:
        """Return the text of a file, without a byte order mark; bytes that are not UTF-8 are replaced."""
        with (self.root / name).open("rb") as file:
            return file.read(LARGEST_TEXT).decode("utf-8-sig", errors="replace")

    def size(self, name: Path) -> int:
        """Return the size of a file in bytes."""
        return (self.root / name).stat().st_size

    @property
    def is_timed(self) -> bool:
        """Whether the folder stands in a track with limits of 10 minutes and 16,000,000 bytes, as its path says."""
        return "track_10min_16mb" in self.root.absolute().parts

    @cached_property
    def script_files(self) -> list[Source]:
        """The training scripts as they are executed: files of the folder itself named `train….py`, else all its Python."""
        python = [name for name in self.files if name.suffix == ".py" and len(name.parts) == 1]
        chosen = [name for name in python if SCRIPT.fullmatch(name.name.lower())] or python
        return [Source(str(name), self.read(name)) for name in chosen]

    @cached_property
    def scripts(self) -> list[Source]:
        """The training scripts, each followed by the code that it unpacks, outermost first."""
        return [layer for script in self.script_files for layer in unpack(script)]

    @cached_property
    def code(self) -> list[Source]:
        """The scripts that can be parsed and are not merely a packed form of another."""
        return [script for script in self.scripts if script.tree is not None and not script.is_packed]

    @cached_property
    def log_files(self) -> list[Path]:
        """The files that can be logs, by their suffix and name."""
        return [name for name in self.files if name.suffix in LOG_SUFFIXES and not NOT_LOGS.fullmatch(name.name)]


def _files(root: Path) -> Iterator[Path]:
    """Yield the files below a folder relative to it, up to `MOST_FILES` and `DEEPEST`, without hidden ones."""
    found = 0
    for folder, folders, names in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = [f for f in sorted(folders) if not f.startswith(".") and len(here.parts) < DEEPEST]
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith(".") or not path.is_file() or (path.is_symlink() and not _inside(path, root)):
                continue
            found += 1
            if found > MOST_FILES:
                return
            yield here / name


def _inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


def record_folders(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the record folders at and below `paths`, each once: those with a submission.json or a script `train….py`.

    A path that is itself no record folder and has none below it is yielded as it is, so that its check says what it
    lacks. Raises UsageError for a path that is no folder.
    """
    seen = set[Path]()
    for path in paths:
        if not path.is_dir():
            raise UsageError("not a folder", where=str(path), hint="name record folders, or a folder of them")
        for folder in sorted(_records_below(path)) or [path]:
            if folder not in seen:
                seen.add(folder)
                yield folder


def _records_below(path: Path) -> Iterator[Path]:
    for searched, (folder, folders, names) in enumerate(os.walk(path), 1):
        if searched > MOST_SEARCHED:
            message = f"more than {MOST_SEARCHED:,} folders below it"
            raise UsageError(message, where=str(path), hint="name the record folders, or folders nearer to them")
        if CLAIMS in names or any(SCRIPT.fullmatch(name.lower()) for name in names):
            yield Path(folder)
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
