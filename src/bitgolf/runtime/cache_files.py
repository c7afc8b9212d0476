"""The user's folder of caches: results that later processes load instead of computing them again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bitgolf.errors import CorruptFileError
from bitgolf.files import DIGEST_KEY, has_own_digest, read_json, write_checked_json


def cache_folder() -> Path | None:
    """`bitgolf` in the user's folder of caches: `$XDG_CACHE_HOME`, or `~/.cache`. None if the user has no home folder."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        return named / "bitgolf"
    try:
        return Path.home() / ".cache" / "bitgolf"
    except RuntimeError:
        return None


class CacheFiles:
    """JSON objects by key, a file for each in `folder`; the newest `most` of them are kept.

    Each has a digest of itself. One that is missing, damaged or of another key is as if it had never been written, and
    a folder that cannot be read or written, or None, is an empty cache.
    """

    def __init__(self, folder: Path | None, most: int) -> None:
        self.folder, self.most = folder, most

    def read(self, key: str) -> dict[str, Any] | None:
        """Return the object of a key, None if there is none."""
        if self.folder is None:
            return None
        try:
            found = read_json(self.folder / f"{key}.json")
        except (CorruptFileError, OSError):
            return None
        if not has_own_digest(found) or found.get("key") != key:
            return None
        return {name: value for name, value in found.items() if name not in ("key", DIGEST_KEY)}

    def write(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep the object of a key, and remove the oldest files beyond `most`."""
        if self.folder is None:
            return
        with suppress(OSError):
            write_checked_json(self.folder / f"{key}.json", {"key": key, **value})
            self._remove_oldest()

    def _remove_oldest(self) -> None:
        assert self.folder
        files = list(self.folder.glob("*.json"))
        if len(files) > self.most:
            files.sort(key=lambda file: file.stat().st_mtime_ns)
            for file in files[: len(files) - self.most]:
                file.unlink(missing_ok=True)
