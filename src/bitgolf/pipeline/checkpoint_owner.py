"""Which training the checkpoints in a run folder belong to: recipe, seed and text, as a digest beside them."""

from __future__ import annotations

import shutil
from pathlib import Path

from bitgolf.data.manifest import load_manifest
from bitgolf.errors import CorruptFileError, UsageError
from bitgolf.files import json_digest, read_checked_json, write_checked_json
from bitgolf.pipeline.host_files import check_hosts
from bitgolf.pipeline.state import Run
from bitgolf.pipeline.stopped import read_stop
from bitgolf.recipes.identity import training_key
from bitgolf.training import checkpoint

KEY_FILE = "key.json"


def check_training(run: Run) -> None:
    """Check of the stage `train`: the checkpoints are those of this training, and may be continued or replaced.

    Raises `UsageError` if they are of another training, or of an unfinished one and `run.resume` is not set, and
    `BitgolfError` if another host does not have the shards.
    """
    check_owner(run, run.data_folder)
    check_finished(run)
    check_hosts(run)


def check_owner(run: Run, data: Path) -> None:
    """Raise `UsageError` if the folder's checkpoints are of another recipe, seed or text than that in `data`.

    Without checkpoints, or if the run may replace them, nothing is checked.
    """
    mine = run.files.checkpoints / KEY_FILE
    if run.overwrite or not mine.exists() or _stored_owner(mine) == _owner(run, data):
        return
    raise UsageError(
        "the checkpoints in this folder are of another recipe, seed or text",
        where=str(run.files.checkpoints),
        hint="choose another --out, or use --from prepare (other text) or --from train to replace them",
    )


def check_finished(run: Run) -> None:
    """Raise `UsageError` if the folder has checkpoints that the run may neither continue nor replace."""
    mine = run.files.checkpoints / KEY_FILE
    if not run.overwrite and not run.resume and mine.exists() and checkpoint.load_latest(run.files.checkpoints):
        stopped = read_stop(run.folder)
        raise UsageError(
            f"this folder contains an unfinished training{f', {stopped}' if stopped else ''}",
            where=str(run.files.checkpoints),
            hint="--resume continues it, --from train starts again",
        )


def claim_checkpoints(run: Run) -> None:
    """Record this training as the owner of the checkpoints. Deletes them first if `run.overwrite` is set."""
    folder = run.files.checkpoints
    if run.overwrite and folder.exists():
        shutil.rmtree(folder)
    write_checked_json(folder / KEY_FILE, {"key": _owner(run, run.data_folder)})


def _stored_owner(file: Path) -> str:
    """The key of the training that wrote the checkpoints. Raises `CorruptFileError` if the file is damaged."""
    try:
        return str(read_checked_json(file).get("key"))
    except CorruptFileError as error:
        error.hint = (
            "delete this file and continue with --resume if the checkpoints beside it are of this recipe, seed and text;"
            " --from train trains again"
        )
        raise


def _owner(run: Run, data: Path) -> str:
    return json_digest([training_key(run.recipe), run.seed, str(load_manifest(data).train)])
