"""Paths as the Python interface takes them. Importing this module does not import torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from bitgolf.pipeline.latest_run import latest_run

AnyPath: TypeAlias = str | os.PathLike[str]


def to_path(path: AnyPath) -> Path:
    """Return a path, with `~` for the home folder."""
    return Path(path).expanduser()


def optional_path(path: AnyPath | None) -> Path | None:
    """Return `to_path`, None for None."""
    return None if path is None else to_path(path)


def to_paths(paths: AnyPath | Sequence[AnyPath]) -> list[Path]:
    """Return a list of paths, given one or several."""
    return [to_path(paths)] if isinstance(paths, str | os.PathLike) else list(map(to_path, paths))


def newest_or_named(path: AnyPath) -> Path:
    """Return a path; for `latest`, the folder of the newest run. Raises `UsageError` if there is none."""
    return latest_run() if path == "latest" else to_path(path)
