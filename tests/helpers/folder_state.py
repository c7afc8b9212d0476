"""The state of a folder, to show that a command has left it as it was."""

from __future__ import annotations

from pathlib import Path

FolderState = dict[str, tuple[bytes, int] | None] | None


def folder_state(folder: Path) -> FolderState:
    """Relative path -> (bytes, time of change in ns) of each file, None for a folder. None if there is no folder."""
    if not folder.exists():
        return None
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
