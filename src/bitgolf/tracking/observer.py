"""The observer of a run that passes its figures to trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bitgolf.tracking.tracker import TrackedRun, Tracker

Rates = Callable[[int, float, float], Mapping[str, float]]
"""(step, seconds on the training clock before it, time limit in seconds) -> learning rates of the step, by name."""


class TrackingObserver:
    """Passes the events of a run to trackers as numbers by name and step. It never stops the run.

    A tracker starts with the first event that has numbers, so a run that is refused leaves nothing behind. One that
    raises gets nothing more, and `warn` is called once for it. rates: learning rates by step.
    """

    def __init__(
        self, trackers: Sequence[Tracker], run: TrackedRun, warn: Callable[[str], object], rates: Rates
    ) -> None:
        self._waiting, self._started = list(trackers), list[Tracker]()
        self._run, self._warn, self._rates = run, warn, rates
        self._step, self._seconds, self._limit = 0, 0.0, 0.0
        self._complete = False

    def __call__(self, event: dict[str, Any]) -> None:
        values = self._values(event)
        if not values:
            return
        for tracker in self._waiting:
            if self._try(tracker, lambda tracker=tracker: tracker.start(self._run)):
                self._started.append(tracker)
        self._waiting.clear()
        for tracker in list(self._started):
            self._try(tracker, lambda tracker=tracker: tracker.log(self._step, values))

    def _values(self, event: dict[str, Any]) -> dict[str, float]:
        """The numbers of an event by name."""
        match event["event"]:
            case "training" | "resume":
                self._limit = float(event["time_limit_seconds"])
                self._seconds = float(event.get("training_seconds", 0.0))
            case "step":
                return self._step_values(event)
            case "validation":
                return {"validation/bpb": event["bpb"], "validation/loss": event["loss"]}
            case "stage_done":
                return {f"seconds/{event['stage']}": event["seconds"]}
            case "result":
                self._complete, self._step = True, event["steps"]
                found = {f"bpb/{name}": value for name, value in event["bpb"].items()}
                found |= {f"bytes/{name}": value for name, value in event["bytes"].items()}
                return {name: value for name, value in found.items() if isinstance(value, float | int)}
        return {}

    def _step_values(self, event: dict[str, Any]) -> dict[str, float]:
        rates = self._rates(event["step"], self._seconds, self._limit)
        self._step, self._seconds = event["step"], event["training_seconds"]
        measured = {"train/loss": event["loss"], "train/tokens": event["tokens"], "train/seconds": self._seconds}
        return {**measured, **{f"learning_rate/{name}": rate for name, rate in rates.items()}}

    def finish(self) -> None:
        """Finish all trackers that have started."""
        for tracker in list(self._started):
            self._try(tracker, lambda tracker=tracker: tracker.finish(failed=not self._complete))
        self._started.clear()

    def _try(self, tracker: Tracker, act: Callable[[], object]) -> bool:
        """Call `act`. If it raises, the tracker gets nothing more; returns whether it did not."""
        try:
            act()
        except Exception as error:
            self._started = [other for other in self._started if other is not tracker]
            text = " ".join(str(error).split()) or type(error).__name__
            self._warn(f"the tracker {type(tracker).__name__} failed, the run goes on without it: {text:.300}")
            return False
        return True
