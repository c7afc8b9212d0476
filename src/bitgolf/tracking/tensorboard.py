"""TensorBoard: event files in a folder for each run. Needs the extra `tensorboard`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitgolf.tracking.tracker import TrackedRun, Tracker


class TensorBoard(Tracker):
    """Writes event files to PLACE/NAME of the run; the configuration is a text. View them: tensorboard --logdir PLACE.

    A training that is resumed adds a file, and hides what earlier files have from its step on.
    """

    package = "tensorboard"

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self._config, self._writer = dict[str, Any](), None
        self._folder = Path(place)

    def start(self, run: TrackedRun) -> None:
        self._folder, self._config = self._folder / run.name, run.config

    def _open(self, step: int, *, training: bool) -> Any:
        """The writer. It is made with the first values: if they are of a training, they replace those from their step on."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step if training else None)
            self._writer.add_text("config", f"```json\n{json.dumps(self._config, indent=1)}\n```", step)
        return self._writer

    def log(self, step: int, values: Mapping[str, float]) -> None:
        writer = self._open(step, training="train/loss" in values)
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    def finish(self, *, failed: bool) -> None:
        if self._writer:
            self._writer.close()
