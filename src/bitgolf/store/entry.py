"""What the store knows of a run: an own one, finished or not, or one that was imported from a log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from bitgolf.data.manifest import load_manifest
from bitgolf.errors import BitgolfError
from bitgolf.files import read_json
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.pipeline.stopped import read_stop
from bitgolf.submission.imported import IMPORTED_FILE, ImportedRun, read_imported


class RunEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A run in the store. What is not known, or not reached yet, is None or empty.

    folder: relative to the store. recipe: name; hash: of the recipe, "" for an imported run. seed: of the run.
    state: the last stage that is done, "" for none; why an observer stopped the run; or the error of a damaged folder.
    bpb: stage or method -> bits per byte. bytes: what counts against the cap; code: size of the script, which `bytes` of
    an own run may not include. params, tokens, steps: of training. seconds: of all stages; training_seconds: of the
    clock. text: identifies the validation text; runs with different ones are not compared. changed: time of the last
    change in seconds since 1970.
    """

    folder: str
    kind: Literal["run", "imported"]
    recipe: str
    hash: str
    seed: int | None
    state: str
    bpb: dict[str, float]
    bytes: int | None
    code: int | None
    params: int | None
    tokens: int | None
    steps: int | None
    seconds: float | None
    training_seconds: float | None
    text: str
    changed: float

    @property
    def best_bpb(self) -> float | None:
        """The lowest score of the packed weights: `sliding`, `adapted` and `packed`, or methods by name."""
        scores = [bpb for stage, bpb in self.bpb.items() if stage not in ("trained", "averaged")]
        return min(scores, default=None)


def is_run(folder: Path) -> bool:
    """Whether a folder has a run, own or imported."""
    return RunFiles(folder).inputs.exists() or (folder / IMPORTED_FILE).exists()


def signature(folder: Path) -> str:
    """Return a text that changes when an entry of a folder would: sizes and times of the files that it is read from."""
    files = RunFiles(folder)
    paths = (files.inputs, files.stages, files.result, files.stopped, folder / IMPORTED_FILE)
    found = [path.stat() for path in paths if path.exists()]
    return " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in found)


def read_entry(folder: Path, name: str) -> RunEntry:
    """Read the entry of a run. A damaged folder has one, too: its state is the error.

    folder: of the run. name: of the folder, relative to the store.
    """
    try:
        if (folder / IMPORTED_FILE).exists():
            return _imported_entry(read_imported(folder), name, _changed(folder))
        return _own_entry(folder, name)
    except (BitgolfError, OSError, AttributeError, LookupError, TypeError, ValueError) as error:
        return _empty(name, f"damaged: {error}", _changed(folder))


def _own_entry(folder: Path, name: str) -> RunEntry:
    files = RunFiles(folder)
    stages = read_json(files.stages) if files.stages.exists() else {}
    stopped = read_stop(folder)
    state = str(stopped) if stopped else next(reversed(stages), "")
    entry = msgspec.structs.replace(
        _empty(name, state, _changed(folder)),
        seed=read_json(files.inputs)["seed"],
        recipe=_recipe_name(files),
        seconds=sum(stage["seconds"] for stage in stages.values()),
    )
    if "report" not in stages or not files.result.exists():
        return entry
    result: Mapping[str, Any] = read_json(files.result)
    return msgspec.structs.replace(
        entry,
        recipe=result["recipe"],
        hash=result["hash"],
        bpb={stage: bpb for stage, bpb in result["bpb"].items() if bpb is not None},
        bytes=result["bytes"]["total"],
        code=result["bytes"]["code"],
        params=result["params"],
        tokens=result["tokens"],
        steps=result["steps"],
        training_seconds=result["training_clock"]["total"],
        text=text_of(folder, result),
    )


def text_of(folder: Path, result: Mapping[str, Any]) -> str:
    """Return what identifies the validation text of a run: fingerprints of its documents, and how many were scored."""
    scored = result.get("scored")
    return f"{load_manifest(folder / 'data').val.fingerprints}:{scored['documents']}" if scored else ""


def _imported_entry(run: ImportedRun, name: str, changed: float) -> RunEntry:
    text = f"{run.dataset}:{run.validation_tokens} tokens" if run.dataset and run.validation_tokens else ""
    return RunEntry(
        folder=name,
        kind="imported",
        recipe=run.name,
        hash="",
        seed=run.seed,
        state="imported",
        bpb=run.bpb,
        bytes=run.total_bytes,
        code=run.code_bytes,
        params=None,
        tokens=None,
        steps=run.steps or None,
        seconds=None,
        training_seconds=run.training_seconds,
        text=text,
        changed=changed,
    )


def _empty(name: str, state: str, changed: float) -> RunEntry:
    return RunEntry(
        folder=name,
        kind="run",
        recipe="",
        hash="",
        seed=None,
        state=state,
        bpb={},
        bytes=None,
        code=None,
        params=None,
        tokens=None,
        steps=None,
        seconds=None,
        training_seconds=None,
        text="",
        changed=changed,
    )


def _recipe_name(files: RunFiles) -> str:
    """Return the name of a stored recipe, "" if it is missing."""
    return str(read_json(files.recipe).get("name", "")) if files.recipe.exists() else ""


def _changed(folder: Path) -> float:
    times = [path.stat().st_mtime for path in folder.iterdir() if path.is_file()]
    return max(times, default=folder.stat().st_mtime)
