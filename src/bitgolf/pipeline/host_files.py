"""The files of a run that workers on other hosts read."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bitgolf.data.manifest import ShardEntry, load_manifest
from bitgolf.errors import UsageError
from bitgolf.files import file_digest
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.pipeline.state import Run
from bitgolf.runtime.hosts.group import current_group
from bitgolf.runtime.hosts.inputs import HostFile, HostInputs


def file_inputs(folder: Path, *paths: Path) -> HostInputs:
    """Inputs of a job that reads these files, which are in `folder` or below."""
    return HostInputs(folder=str(folder), files=tuple(_described(folder, path, file_digest(path)) for path in paths))


def host_inputs(run: Run, *paths: Path) -> HostInputs:
    """Inputs of a job that reads the training shards, and these files of the run's folder.

    Shards that the run was given with --shards must be on every host; those that it has made from text are copied. The
    manifest of other hosts names no folder: they find the shards beside it.
    """
    data, manifest = run.data_folder, load_manifest(run.data_folder)
    place = Path(manifest.shards_folder or data)
    files = file_inputs(run.folder, data / "tokenizer.model", *paths)
    shards = tuple(_shard(place, entry) for entry in manifest.train.shards)
    text = msgspec.json.encode(msgspec.structs.replace(manifest, shards_folder="")).decode()
    if not manifest.shards_folder:
        own = tuple(msgspec.structs.replace(shard, name=f"{data.name}/{shard.name}") for shard in shards)
        files, shards = msgspec.structs.replace(files, files=files.files + own), ()
    return msgspec.structs.replace(
        files,
        texts=((f"{data.name}/manifest.json", text),),
        shards=shards,
        shards_folder=manifest.shards_folder,
        shards_name=data.name,
    )


def check_hosts(run: Run) -> None:
    """Raise `BitgolfError` if another host does not have the shards that the run was given."""
    if group := current_group():
        group.check(lambda: host_inputs(run))


def check_first_host(folder: Path) -> None:
    """Raise `UsageError` if another host has a run at this path, and the first host, which would begin one, has none."""
    group, inputs = current_group(), RunFiles(folder).inputs
    if group and not inputs.exists() and (hosts := group.hosts_with(inputs)):
        message = f"{hosts[0]} has a run in this folder, but the first host has none"
        hint = "start with the host of the run as the first: torchrun --node-rank 0 there; or choose another --out"
        raise UsageError(message, where=str(folder), hint=hint)


def _described(folder: Path, path: Path, digest: str) -> HostFile:
    return HostFile(path.relative_to(folder).as_posix(), path.stat().st_size, digest)


def _shard(place: Path, entry: ShardEntry) -> HostFile:
    return _described(place, place / entry.name, entry.digest)
