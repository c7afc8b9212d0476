"""Trackio: a local database of runs, with a dashboard. Needs the extra `trackio`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

from bitgolf.tracking.tracker import TrackedRun, Tracker


class Trackio(Tracker):
    """Logs to a project of Trackio, in the folder that `TRACKIO_DIR` names. View it: trackio show --project PROJECT."""

    package = "trackio"

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self._trackio: Any = None
        self._run: Any = None

    def start(self, run: TrackedRun) -> None:
        with redirect_stdout(sys.stderr):  # it prints, and standard output is for results
            self._trackio = import_module("trackio")
            self._run = self._trackio.init(project=self.place, name=run.name, config=run.config, resume="allow")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, *, failed: bool) -> None:
        with redirect_stdout(sys.stderr):
            self._trackio.finish()  # of the module, which would otherwise finish the run again when Python ends
