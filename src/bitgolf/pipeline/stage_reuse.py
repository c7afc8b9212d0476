"""Outcomes of stages taken over from other runs.

The key of a stage has everything that determines its outcome and nothing of the folder, so a stage of another run with
the same key has the same outcome. Its files are linked, or copied to another disk, and compared with their digests.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bitgolf.files import file_digest
from bitgolf.pipeline.outputs import FILES_KEY
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.pipeline.stages import STAGES, Stage
from bitgolf.pipeline.state import Run, read_outcomes
from bitgolf.report.events import read_events, training_events
from bitgolf.report.log import RunLog

TAKEN_FROM = "taken_from"
"""Key of an outcome in `stages.json`: folder of the run that executed the stage. Absent for a stage of the run itself."""


def take_over_stages(run: Run, sources: Sequence[Path]) -> None:
    """Take over the longest sequence of stages that this run would repeat and a source has with equal keys.

    run: its completed stages are extended; nothing that exists in its folder is replaced. sources: folders of other runs;
    the first with the stage is used. A stage that is missing, damaged or being written there is executed as usual. A
    training that will be left unfinished is not taken over, since that of a source has ended.
    """
    if not sources:
        return
    known = {folder: read_outcomes(folder, RunLog(quiet=True)) for folder in sources if _is_other(folder, run)}
    for stage in STAGES[:-1]:  # the last one reports on this folder
        if stage.name == "train" and run.train_until < 1:
            return
        if stage.name in run.completed and stage.unchanged(run) and not stage.damage(run):
            continue
        key = stage.key(run)
        having = [folder for folder, stages in known.items() if stages.get(stage.name, {}).get("key") == key]
        if not any(_take_over(run, stage, folder, known[folder][stage.name]) for folder in having):
            return


def _is_other(folder: Path, run: Run) -> bool:
    return RunFiles(folder).stages.exists() and folder.resolve() != run.folder.resolve()


def _take_over(run: Run, stage: Stage, source: Path, outcome: dict[str, Any]) -> bool:
    """Link the files of a stage and record its outcome. Returns False, with the folder as it was, if that is not possible."""
    earlier = [other.name for other in STAGES[: STAGES.index(stage)]]
    kept = {name: done for name, done in run.completed.items() if name in earlier}
    made = _linked(run, source, _files_of(stage, source, outcome))
    if made is None:
        return False
    run.completed[stage.name] = outcome
    if stage.damage(run):
        _remove(made)
        del run.completed[stage.name]
        return False
    origin = outcome.get(TAKEN_FROM, str(source.resolve()))
    run.start_writing(kept)
    run.record({**kept, stage.name: {**outcome, TAKEN_FROM: origin}})
    run.log.info(f"{stage.name}: taken over from {source}")
    run.log.event("taken_over", stage=stage.name, key=outcome["key"], folder=origin)
    if stage.name == "train":
        for event in training_events(read_events(RunFiles(source).log).events):
            run.log.event(event.pop("event"), **event)
    return True


def _files_of(stage: Stage, source: Path, outcome: dict[str, Any]) -> list[str]:
    """Names of the files of a stage in a source, relative to its folder."""
    found = [path for pattern in stage.undigested for path in source.glob(pattern) if path.is_file()]
    names = [path.relative_to(source).as_posix() for path in found if not path.name.startswith(".")]
    digested = [name for name in outcome.get(FILES_KEY, {}) if not stage.optional or (source / name).exists()]
    return sorted({*names, *digested})


def _linked(run: Run, source: Path, names: Iterable[str]) -> list[Path] | None:
    """Link files; returns those that did not exist before, or None, with the folder as it was, if that is not possible."""
    made = list[Path]()
    for name in names:
        ours, theirs = run.folder / name, source / name
        try:
            if not ours.exists():
                _link(theirs, ours)
                made.append(ours)
            elif not (ours.samefile(theirs) or file_digest(ours) == file_digest(theirs)):
                raise FileExistsError(str(ours))
        except (
            FileNotFoundError,
            FileExistsError,
        ):  # the source was removed meanwhile, or the folder has other results
            _remove(made)
            return None
    return made


def _link(source: Path, path: Path) -> None:
    """Link a file, or copy it atomically where links are not possible."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, path)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES):
            raise
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        shutil.copyfile(source, temporary)
        temporary.replace(path)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            path.parent.rmdir()
