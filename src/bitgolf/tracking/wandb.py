"""Weights & Biases. Needs the extra `wandb`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from bitgolf.files import json_digest
from bitgolf.tracking.tracker import TrackedRun, Tracker


class WandB(Tracker):
    """Logs to a project of Weights & Biases. Offline, in the folder `wandb`, unless `WANDB_MODE` says otherwise.

    `wandb sync` uploads what was logged offline. Values have an axis `step` of their own, since the steps of wandb itself
    cannot go back where a training is resumed.
    """

    package = "wandb"

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self._run: Any = None

    def start(self, run: TrackedRun) -> None:
        wandb: Any = import_module("wandb")
        self._run = wandb.init(
            project=self.place,
            name=run.name,
            id=json_digest([run.name, run.config.get("folder"), run.config.get("hash")])[:12],
            resume="allow",
            config=run.config,
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(silent=True),
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def finish(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
