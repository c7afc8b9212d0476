"""Fetch published shards to a folder that `--shards` takes: plan, check the disk, transfer, verify, record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bitgolf.data.hub.client import HubClient
from bitgolf.data.hub.download import FileTransfer
from bitgolf.data.hub.plan import FetchPlan, check_space, make_plan
from bitgolf.data.hub.published import ShardSource
from bitgolf.data.hub.record import FetchedFile, FetchRecord, entry_of, load_record, save_record
from bitgolf.data.hub.selection import Selection, select_files
from bitgolf.errors import BitgolfError, Interrupted, UsageError
from bitgolf.report.log import RunLog
from bitgolf.report.progress import WorkProgress
from bitgolf.runtime.folder_lock import folder_lock


class FetchSettings(msgspec.Struct, frozen=True):
    """What to fetch from a source, and where to.

    train_shards: number of training shards, None for all. out: the folder, None for the name of the folder in the
    repository. revision: branch, tag or commit, None for that of the folder's record or else the main branch.
    tokenizer: its path in the repository, "" to find it. verify: read files again that did not change.
    """

    train_shards: int | None = None
    out: Path | None = None
    revision: str | None = None
    tokenizer: str = ""
    verify: bool = False


class FetchedShards(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `data fetch --json`.

    folder: where the files are. repository, commit, remote_folder: where they are from. bytes: of all files;
    bytes_fetched: of those that this call fetched. seconds: duration of this call.
    """

    folder: str
    repository: str
    commit: str
    remote_folder: str
    tokenizer: str
    train_shards: int
    train_shards_published: int
    val_shards: int
    byte_sidecars: int
    bytes: int
    bytes_fetched: int
    seconds: float
    files: dict[str, FetchedFile]


def fetch_published(client: HubClient, source: ShardSource, settings: FetchSettings, log: RunLog) -> FetchedShards:
    """Fetch the files of a source, or what is left of them after an interrupted call.

    All files of a folder are from one commit: that of the first call. Raises `UsageError` for what does not exist or
    does not fit to the folder, `BitgolfError` if the disk is full or the hub does not answer, and `Interrupted`.
    """
    started = time.perf_counter()
    if settings.out and settings.out.exists() and not settings.out.is_dir():
        raise UsageError("not a folder", where=str(settings.out), hint="give --out a folder")
    listing = client.list_files(source.repository, settings.revision)
    selection = select_files(listing.files, source, settings.train_shards, settings.tokenizer)
    folder = settings.out or Path(selection.folder.rpartition("/")[2] or source.repository.rpartition("/")[2])
    first = FetchRecord(
        repository=source.repository,
        commit=listing.commit,
        folder=selection.folder,
        tokenizer=selection.tokenizer.name,
    )
    record = load_record(folder) or first
    _check_same_set(folder, record, first)
    if record.commit != listing.commit:
        _refuse_other_revision(folder, record, settings.revision, listing.commit, log)
        listing = client.list_files(source.repository, record.commit)
        selection = select_files(listing.files, source, settings.train_shards, settings.tokenizer)
    with _disk_errors(folder):
        plan = make_plan(folder, selection, record, log.info, verify=settings.verify)
        free = check_space(folder, plan, selection)
        for line in _plan_lines(folder, record, selection, plan, free):
            log.info(line)
        with folder_lock(folder):
            save_record(folder, record)
            _transfer(client, folder, record, plan, log)
    return _result(folder, record, selection, plan, time.perf_counter() - started)


def _transfer(client: HubClient, folder: Path, record: FetchRecord, plan: FetchPlan, log: RunLog) -> None:
    """Fetch the missing files. Each is recorded when it is verified."""
    progress = TransferProgress(log, plan)
    transfer = FileTransfer(client, record.repository, record.commit, progress.received)
    for done, file in enumerate(plan.missing):
        progress.file = f"{file.name} ({done + 1} of {len(plan.missing)})"
        try:
            sha256 = transfer.fetch(file, folder / file.name)
        except KeyboardInterrupt as error:
            message = f"interrupted with {done} of {len(plan.missing)} files fetched"
            hint = "run the same command again: it continues where it stopped"
            raise Interrupted(message, where=str(folder), hint=hint) from error
        record.files[file.name] = entry_of(folder / file.name, file, sha256)
        save_record(folder, record)


class TransferProgress:
    """Counts the bytes of a plan that are there, and shows the progress. file: which one is fetched."""

    def __init__(self, log: RunLog, plan: FetchPlan) -> None:
        self.total, self.done, self.file = plan.total, plan.present + plan.partial, ""
        self.work = WorkProgress(log.progress, "fetch", "bytes")
        self.work.restart(self.done)

    def received(self, count: int) -> None:
        """Add bytes that arrived; a negative count takes away bytes that were discarded."""
        self.done += count
        if count < 0:
            self.work.restart(self.done)
        self.work.update(self.done, self.total, self.file)


def format_bytes(count: int) -> str:
    """Return a number of bytes in MB, or in GB from 1 GB on (decimal)."""
    return f"{count / 1e9:.2f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"


def _check_same_set(folder: Path, record: FetchRecord, wanted: FetchRecord) -> None:
    """Raise `UsageError` if a folder holds files of another set, or another tokenizer."""
    sets = [f"{r.repository}:{r.folder} with {r.tokenizer}" for r in (record, wanted)]
    if sets[0] != sets[1]:
        message = f"the folder holds {sets[0]}, not {sets[1]}"
        raise UsageError(message, where=str(folder), hint="choose another folder with --out")


def _refuse_other_revision(folder: Path, record: FetchRecord, revision: str | None, commit: str, log: RunLog) -> None:
    """Raise `UsageError` if another revision is asked for; without --revision, say that the repository has changed."""
    if revision is not None:
        message = f"the folder holds revision {record.commit}, but --revision {revision} is {commit}"
        raise UsageError(message, where=str(folder), hint="choose another folder with --out, or leave out --revision")
    log.info(
        f"{record.repository} is now at {commit}; the folder stays at {record.commit}, where its files are from "
        "(for the new revision, choose another folder with --out)"
    )


def _plan_lines(folder: Path, record: FetchRecord, selection: Selection, plan: FetchPlan, free: int) -> list[str]:
    """Return lines that say what is fetched, from where, and how much of it is there."""
    lines = [
        f"{record.repository}:{selection.folder} at {record.commit}",
        f"{len(selection.train)} of {selection.available} training shards, {len(selection.val)} validation shards, "
        f"{len(selection.sidecars)} byte sidecars, tokenizer {selection.tokenizer.path}: {format_bytes(plan.total)}",
        f"{format_bytes(plan.present)} verified in {folder}, {format_bytes(plan.partial)} of interrupted transfers, "
        f"{format_bytes(plan.needed)} to fetch, {format_bytes(free)} free on the disk",
    ]
    others = set(record.files) - {file.name for file in selection.files}
    if others:
        lines.append(f"the folder also holds {len(others)} files of an earlier call, such as {min(others)}")
    return lines


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Raise `BitgolfError` for an `OSError` of the file system, such as a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        where = str(error.filename or folder)
        hint = "mend the cause and run the same command again: what has arrived is kept, and it continues"
        raise BitgolfError(f"cannot read or write ({error.strerror})", where=where, hint=hint) from error


def _result(folder: Path, record: FetchRecord, selection: Selection, plan: FetchPlan, seconds: float) -> FetchedShards:
    return FetchedShards(
        folder=str(folder),
        repository=record.repository,
        commit=record.commit,
        remote_folder=record.folder,
        tokenizer=record.tokenizer,
        train_shards=len(selection.train),
        train_shards_published=selection.available,
        val_shards=len(selection.val),
        byte_sidecars=len(selection.sidecars),
        bytes=plan.total,
        bytes_fetched=plan.needed,
        seconds=round(seconds, 3),
        files={file.name: record.files[file.name] for file in selection.files},
    )
