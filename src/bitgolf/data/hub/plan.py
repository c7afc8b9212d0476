"""What is left to fetch: compared with the files that are there, and with the space on the disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bitgolf.data.hub.download import partial_path
from bitgolf.data.hub.record import FetchRecord, content_problem, entry_of, matches_record
from bitgolf.data.hub.selection import RemoteFile, Selection, shard_split
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.runtime.disk_space import free_bytes


class FetchPlan(msgspec.Struct, frozen=True):
    """The files to fetch. present: bytes of files that are verified; partial: bytes of interrupted transfers."""

    missing: tuple[RemoteFile, ...]
    total: int
    present: int
    partial: int

    @property
    def needed(self) -> int:
        """Bytes that are still to be fetched, and that the disk has to hold."""
        return self.total - self.present - self.partial


def make_plan(
    folder: Path, selection: Selection, record: FetchRecord, say: Callable[[str], object], *, verify: bool
) -> FetchPlan:
    """Compare the selected files with a folder. Files that are verified here are added to `record`.

    A file with the recorded size and time of change is not read again, unless `verify`. say: prints a message.
    Raises `UsageError` if the folder has other shards, or another file of the same name: nothing is overwritten that
    this command did not write.
    """
    _refuse_other_shards(folder, selection, record)
    missing = []
    for file in selection.files:
        path = folder / file.name
        if (matches_record(path, file, record) and not verify) or _is_published(path, file, record, say):
            continue
        missing.append(file)
    total = sum(file.size for file in selection.files)
    return FetchPlan(
        missing=tuple(missing),
        total=total,
        present=total - sum(file.size for file in missing),
        partial=sum(_partial_bytes(folder, file) for file in missing),
    )


def _refuse_other_shards(folder: Path, selection: Selection, record: FetchRecord) -> None:
    """Raise `UsageError` if the folder has shards that would be read together with the fetched ones."""
    expected = {file.name for file in selection.files} | set(record.files)
    others = sorted(p.name for p in folder.glob("*.bin") if shard_split(p.name) and p.name not in expected)
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        message = f"the folder has shards that this command does not fetch: {others[0]}{more}"
        raise UsageError(message, where=str(folder), hint="choose another folder with --out, or move them away")


def _is_published(path: Path, file: RemoteFile, record: FetchRecord, say: Callable[[str], object]) -> bool:
    """Verify the content of a file that is there, and record it. False if it is missing, or ours and damaged."""
    if not path.exists() and not path.is_symlink():
        return False
    if not path.is_file():
        raise UsageError("it is in the way: not a regular file", where=str(path), hint="move it away")
    say(f"verifying {path.name}")
    problem, sha256 = content_problem(path, file)
    if not problem:
        record.files[path.name] = entry_of(path, file, sha256)
        return True
    if path.name not in record.files:
        message = f"a file of this name is there, and is not the published one: {problem}"
        raise UsageError(message, where=str(path), hint="choose another folder with --out, or move it away")
    say(f"{path.name} changed after it was fetched ({problem}); it is fetched again")
    return False


def _partial_bytes(folder: Path, file: RemoteFile) -> int:
    part = partial_path(folder / file.name, file)
    return min(part.stat().st_size, file.size) if part.exists() else 0


def check_space(folder: Path, plan: FetchPlan, selection: Selection) -> int:
    """Return the free bytes of the disk that holds `folder`. Raises `BitgolfError` if the plan needs more."""
    free = free_bytes(folder)
    if plan.needed > free:
        fitting = _fitting_shards(plan.needed - free, plan.missing, selection.train)
        hint = "free some space, or choose another disk with --out"
        hint += f"; --train-shards {fitting} would fit" if fitting is not None else ""
        message = f"{plan.needed:,} bytes are to be fetched, but the disk has {free:,} free"
        raise BitgolfError(message, where=str(folder), hint=hint)
    return free


def _fitting_shards(excess: int, missing: Sequence[RemoteFile], train: Sequence[RemoteFile]) -> int | None:
    """Return how many training shards can be kept to save `excess` bytes, None if leaving all out is not enough."""
    for kept in reversed(range(len(train))):
        excess -= train[kept].size if train[kept] in missing else 0
        if excess <= 0:
            return kept
    return None
