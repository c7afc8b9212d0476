"""Which files a list of paths stands for: folders, links, patterns, and standard input."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

from bitgolf.errors import BitgolfError, UsageError
from bitgolf.files import atomic_write
from bitgolf.text.containers import BLOCK_BYTES
from bitgolf.text.read_report import ReadReport

STANDARD_INPUT = "-"


class FoundFile(NamedTuple):
    """A file to read. named: whether the user named this file, rather than a folder or a pattern."""

    path: Path
    named: bool


def is_stream(path: Path | str) -> bool:
    """Whether a path can be read only once: `-` for standard input, a pipe or a device."""
    path = Path(path)
    return str(path) == STANDARD_INPUT or (path.exists() and not path.is_dir() and not path.is_file())


def expand(path: Path | str) -> list[FoundFile]:
    """Return the files and folders that a path of the user stands for: itself, or the matches of a pattern, sorted.

    A path that exists is taken as it is, even if it has `*`, `?` or `[`. Raises `UsageError` if there is none.
    """
    path = Path(path)
    if str(path) == STANDARD_INPUT or path.exists():
        return [FoundFile(path, named=True)]
    if path.is_symlink():
        hint = f"it points to {str(path.readlink())!r}"
        raise UsageError("no such file or folder: the symbolic link is dangling", where=str(path), hint=hint)
    if not glob.has_magic(str(path)):
        hint = "--text takes files, folders, patterns such as 'corpus/*.txt', and - for standard input"
        raise UsageError("no such file or folder", where=str(path), hint=hint)
    if matches := sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207 (an absolute pattern)
        return [FoundFile(Path(match), named=False) for match in matches]
    raise UsageError("no such file or folder: no file matches the pattern", where=str(path))


def find_files(paths: Iterable[Path | str], report: ReadReport) -> Iterator[FoundFile]:
    """Yield the files that the paths stand for, in the given order, those of a folder sorted by path.

    Hidden files and folders, dangling links, pipes and devices in a folder are skipped and counted in `report`.
    """
    for path in paths:
        for found in expand(path):
            if found.path.is_dir():
                yield from (FoundFile(file, named=False) for file in walk_with_links(found.path, report))
            elif found.named or _can_be_read(found.path, report):
                yield found


def _can_be_read(file: Path, report: ReadReport) -> bool:
    """Whether a file is regular and exists; otherwise it is counted as skipped."""
    try:
        regular = stat.S_ISREG(file.stat().st_mode)
    except OSError:
        report.skip("dangling link", str(file))
        return False
    if not regular:
        report.skip("neither file nor folder", str(file))
    return regular


def walk(folder: Path, without: AbstractSet[str] = frozenset(), report: ReadReport | None = None) -> list[Path]:
    """Return the files under a folder, sorted by relative path; hidden files and folders are left out.

    without: names of folders to leave out. Symbolic links to folders are not followed.
    """
    return sorted(_Walk(report or ReadReport(), without).files(folder), key=lambda file: _order(file, folder))


def walk_with_links(folder: Path, report: ReadReport) -> list[Path]:
    """Return the files under a folder and the folders that it links to, sorted by relative path.

    Each file and folder is read once, even if several links lead to it. What is skipped is counted in `report`.
    """
    walk = _Walk(report)
    files = walk.files(folder)
    while walk.links:
        files += walk.files(walk.links.pop(0))
    files = [file for file in sorted(files, key=lambda file: _order(file, folder)) if _can_be_read(file, report)]
    return _without_repeats(files, report) if walk.any_link or any(file.is_symlink() for file in files) else files


def _without_repeats(files: list[Path], report: ReadReport) -> list[Path]:
    """Return the files without those that are an earlier one under another name, through a link."""
    seen: set[str] = set()
    kept = []
    for file in files:
        if (real := os.path.realpath(file)) in seen:
            report.skip("link to a file that is read already", str(file))
        else:
            seen.add(real)
            kept.append(file)
    return kept


def _order(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


class _Walk:
    """Lists folders. folders: real paths of all that were listed. links: links to folders that were found."""

    def __init__(self, report: ReadReport, without: AbstractSet[str] = frozenset()) -> None:
        self.report, self.without = report, without
        self.folders, self.links, self.any_link = set[str](), list[Path](), False

    def files(self, folder: Path) -> list[Path]:
        """Return the files under a folder. Links to folders are not followed, but added to `links`, sorted."""
        found: list[Path] = []
        links: list[Path] = []
        for root, folders, names in os.walk(folder, onerror=_raise):
            if (real := os.path.realpath(root)) in self.folders:
                self.report.skip("link to a folder that is read already", root)
                folders.clear()
                continue
            self.folders.add(real)
            for name in [*folders, *names]:
                if name.startswith("."):
                    self.report.skip("hidden", str(Path(root, name)))
            folders[:] = [name for name in folders if not name.startswith(".") and name not in self.without]
            links += [path for name in folders if (path := Path(root, name)).is_symlink()]
            found += [Path(root, name) for name in names if not name.startswith(".")]
        self.links += sorted(links, key=str)
        self.any_link |= bool(links)
        return found


def _raise(error: OSError) -> None:
    raise BitgolfError(f"the folder cannot be read ({error.strerror or error})", where=str(error.filename)) from error


def check_paths(paths: Iterable[Path | str]) -> None:
    """Raise `UsageError` if a path stands for no file, or standard input is named twice."""
    inputs = 0
    for path in paths:
        expand(path)
        inputs += str(path) == STANDARD_INPUT
    if inputs > 1:
        message = f"standard input can be read once, but was given {inputs} times"
        raise UsageError(message, where=STANDARD_INPUT, hint="give - once")


def absolute(path: Path | str) -> str:
    """Return an absolute path or pattern for the same files, to be read later from another folder."""
    path = Path(path)
    if path.exists() or path.is_absolute() or not glob.has_magic(str(path)):
        return str(path.resolve())
    return str(Path(glob.escape(str(Path.cwd())), path))


def copy_stream(path: Path | str, folder: Path) -> Path:
    """Copy standard input or a pipe into a folder, so that it can be read again; returns the path of the copy.

    The name of the copy is a hash of the content, so the same input gives the same file.
    """
    content, incoming = hashlib.sha256(), folder / "incoming"
    with atomic_write(incoming) as handle:
        for block in file_blocks(Path(path)):
            content.update(block)
            handle.write(block)
    copy = folder / f"input-{content.hexdigest()[:16]}"
    if copy.exists():
        incoming.unlink()
    else:
        incoming.replace(copy)
    return copy.resolve()


def file_blocks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file or of standard input in blocks. Raises `BitgolfError` if it cannot be read."""
    try:
        if str(path) == STANDARD_INPUT:
            yield from iter(lambda: sys.stdin.buffer.read(BLOCK_BYTES), b"")
            return
        with path.open("rb") as handle:
            yield from iter(lambda: handle.read(BLOCK_BYTES), b"")
    except OSError as error:
        raise BitgolfError(f"the file cannot be read ({error.strerror or error})", where=str(path)) from error
