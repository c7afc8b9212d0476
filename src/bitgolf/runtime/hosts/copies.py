"""The files of a run on a host other than the first: links to those that the host has, and copies of the others."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bitgolf.errors import BitgolfError, UsageError
from bitgolf.files import file_digest, write_bytes
from bitgolf.runtime.hosts.inputs import HostFile, HostInputs

THREADS = 8
"""Files that are read at the same time."""


class HostCopies:
    """A temporary folder that stands for the run's folder on this host. Nothing is written anywhere else.

    shards: the folder that this host's command names with --shards, None without the option.
    """

    def __init__(self, shards: Path | None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bitgolf-host-"))
        self._shards = shards
        self._digests = dict[tuple[str, int, int], str]()

    def provide(self, inputs: HostInputs) -> tuple[str, ...]:
        """Link the files that this host has, and return the names of the others, which are to be copied.

        Raises `BitgolfError` if this host's shards are not those of the first host.
        """
        place = self._shards or Path(inputs.shards_folder)
        differing = self._differing({file: place / file.name for file in inputs.shards})
        if differing:
            raise _other_shards(place, differing, given=self._shards is not None)
        for file in inputs.shards:
            self._link(f"{inputs.shards_name}/{file.name}", place / file.name)
        for name, text in inputs.texts:
            write_bytes(self.path(name), text.encode())
        present = {file: self.folder / file.name for file in inputs.files}
        wanted = self._differing(present)
        elsewhere = {file: Path(inputs.folder) / file.name for file in wanted}
        missing = self._differing(elsewhere)
        for file in wanted.keys() - missing.keys():
            self._link(file.name, elsewhere[file])
        for file in missing:
            self.path(file.name).unlink(missing_ok=True)  # a link must not be written through
        return tuple(sorted(file.name for file in missing))

    def path(self, name: str) -> Path:
        """The path of a file. Raises `ValueError` if the name leads out of the folder."""
        path = self.folder / name
        if Path(name).is_absolute() or ".." in path.parts:
            raise ValueError(f"not a name below the folder: {name!r}")
        return path

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _link(self, name: str, target: Path) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target.resolve())

    def _differing(self, paths: Mapping[HostFile, Path]) -> dict[HostFile, str]:
        """The files that are not at their paths with the same contents, and what is there instead, in words."""
        with ThreadPoolExecutor(THREADS) as threads:
            found = threads.map(lambda item: self._difference(*item), paths.items())
            return {file: words for file, words in zip(paths, found, strict=True) if words}

    def _difference(self, file: HostFile, path: Path) -> str:
        try:
            status = path.stat()
            if status.st_size != file.size:
                return f"has {status.st_size:,} bytes instead of {file.size:,}"
            key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
            if key not in self._digests:
                self._digests[key] = file_digest(path)
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        found = self._digests[key]
        return "" if found == file.digest else f"has digest {found} instead of {file.digest}"


def _other_shards(place: Path, differing: Mapping[HostFile, str], *, given: bool) -> BitgolfError:
    (file, words), *others = sorted(differing.items(), key=lambda item: item[0].name)
    more = f", and {len(others):,} other shards differ" if others else ""
    instead = "" if given else " or name their folder on this host with --shards"
    hint = f"copy the shards of the first host to this one{instead}"
    return UsageError(
        f"the shards differ from those of the first host: {file.name} {words}{more}", where=str(place), hint=hint
    )
