"""The files of the repository that `helpers.hub_repository` publishes on a hub of its own."""

from __future__ import annotations

from pathlib import Path

from helpers.hub_repository import SP1024, repository_files

FILES = repository_files()
FIRST = f"{SP1024}/fineweb_train_000000.bin"
VAL = f"{SP1024}/fineweb_val_000000.bin"
SIZE = len(FILES[FIRST])
ONE_SHARD = ["fetched.json", "fineweb_1024_bpe.model", "fineweb_train_000000.bin", "fineweb_val_000000.bin"]


def content(folder: Path, path: str, files: dict[str, bytes] = FILES) -> bool:
    """Whether the folder has a file of the repository, byte for byte."""
    return (folder / Path(path).name).read_bytes() == files[path]
