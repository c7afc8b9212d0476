"""The files of a run that a job reads, as other hosts are told of them."""

from __future__ import annotations

import msgspec


class HostFile(msgspec.Struct, frozen=True):
    """A file: its name below the folder of the run, size in bytes, and digest."""

    name: str
    size: int
    digest: str


class HostInputs(msgspec.Struct, frozen=True, kw_only=True):
    """Files that the workers of a job read.

    folder: the run's, as the user gave it; each host looks for it at this path. files: of this folder; a host that has
    others there, or none, gets copies. texts: name below the folder, and content of small files. shards: files that
    every host must have, in the folder `shards_folder` unless its own command has another --shards. Workers find them
    below `shards_name` in the folder of the run.
    """

    folder: str = "."
    files: tuple[HostFile, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()
    shards: tuple[HostFile, ...] = ()
    shards_folder: str = ""
    shards_name: str = ""
