"""What a tracker is: something that receives numbers by name and step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple


class TrackedRun(NamedTuple):
    """What a tracker is told of a run when it starts.

    name: the same each time that the run is continued. config: recipe, hash, seed and settings, as JSON values.
    """

    name: str
    config: dict[str, Any]


class Tracker(ABC):
    """Receives the figures of one run. Any method may raise; the run then goes on without the tracker.

    package: that it needs. place: where the figures go, such as a folder or the name of a project. The constructor writes
    nothing and does not import the package; `start` is called once, before the first figures.
    """

    package: ClassVar[str]

    def __init__(self, place: str) -> None:
        self.place = place

    @abstractmethod
    def start(self, run: TrackedRun) -> None:
        """Begin a run, or continue the one of that name."""

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add values by name, such as `train/loss`, after a training step. Steps go back where a training is resumed."""

    @abstractmethod
    def finish(self, *, failed: bool) -> None:
        """Write what is not written yet. failed: the run has not reached its end."""
