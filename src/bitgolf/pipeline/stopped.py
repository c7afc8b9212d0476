"""The record of a run that an observer stopped: `stopped.json` in its folder, until a stage of the run starts again."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bitgolf.errors import BitgolfError, Stopped
from bitgolf.files import read_checked_json, write_checked_json
from bitgolf.pipeline.run_files import RunFiles


class StopRecord(msgspec.Struct, frozen=True):
    """when: such as "after step 40". reason: of the observer."""

    when: str
    reason: str

    def __str__(self) -> str:
        return f"stopped {self.when}: {self.reason}"


def write_stop(folder: Path, stopped: Stopped) -> None:
    """Record that a run was stopped."""
    write_checked_json(RunFiles(folder).stopped, {"when": stopped.when, "reason": stopped.reason})


def read_stop(folder: Path) -> StopRecord | None:
    """Return the record of a run that was stopped, None if the run was not stopped, or the record is damaged."""
    file = RunFiles(folder).stopped
    try:
        return msgspec.convert(read_checked_json(file), StopRecord) if file.exists() else None
    except (BitgolfError, msgspec.ValidationError):
        return None
