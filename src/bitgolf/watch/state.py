"""The state of a run, from the events in its log and from whether its process still exists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from bitgolf.report.events import (
    StepRow,
    ValidationRow,
    current_warnings,
    training_phases,
    training_steps,
    validation_rows,
)
from bitgolf.runtime.progress import TrainingProgress

Event = dict[str, Any]
Status = Literal["not begun", "running", "finished", "stopped", "failed", "ended"]
RECENT_STEPS = 50
"""Steps over which the speed is measured."""


class WriterProcess(NamedTuple):
    """The process that writes to the folder of a run, as its lock names it.

    exists: None if that is not known, as for a process of a third machine. name: for messages; "" without a lock.
    """

    exists: bool | None
    name: str = ""


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """State of a run; the fields are the keys of `watch --json`. What is not known is None, 0 or empty.

    status: `ended` is a run without a process that neither finished nor says why. reason: why the run does not go on.
    recipe, hash, seed: of the run. stage: the one that is executed, or was executed last. stages: completed stage ->
    seconds, 0 if it was reused. step, loss (nats per token), tokens, training_seconds: of the last step; steps,
    time_limit_seconds: limits of training, 0 for none. tokens_per_second: in the last steps. seconds_left: of training.
    validation: scores during training. warnings: of each stage. bpb: method -> bits per byte of the packed model.
    updated: time of the last event, in seconds since 1970.
    """

    run: str
    status: Status
    reason: str = ""
    recipe: str = ""
    hash: str = ""
    seed: int | None = None
    stage: str = ""
    stages: dict[str, float] = {}
    step: int = 0
    steps: int = 0
    loss: float | None = None
    tokens: int = 0
    tokens_per_second: float | None = None
    training_seconds: float = 0.0
    time_limit_seconds: float = 0.0
    seconds_left: float | None = None
    validation: list[ValidationRow] = []
    warnings: list[str] = []
    bpb: dict[str, float] = {}
    updated: float | None = None

    @property
    def over(self) -> bool:
        """Whether the run does not go on."""
        return self.status not in ("not begun", "running")

    @property
    def share(self) -> float | None:
        """Share of training that is done, in [0, 1]; None without a limit."""
        now = TrainingProgress(self.step, self.steps, self.training_seconds, self.time_limit_seconds)
        return now.fraction if self.steps or self.time_limit_seconds else None


class RunView(NamedTuple):
    """State of a run and its curves. losses: (step, nats per token). phases: (step, fraction of the run)."""

    state: RunState
    losses: Sequence[tuple[int, float]] = ()
    phases: Sequence[tuple[int, float]] = ()


def view_run(run: str, events: Sequence[Event], process: WriterProcess) -> RunView:
    """Return the state of a run. run: its name, for messages. events: all of its log. process: that writes to it."""
    if not events:
        return RunView(RunState(run=run, status="not begun"))
    rows, current = training_steps(events), _last_execution(events)
    status, reason = _status(current, process)
    begun = next((event for event in current if event["event"] == "run"), {})
    stages, stage = _stages(current)
    last = rows[-1] if rows else StepRow(0, 0.0, 0, 0.0)
    steps, limit = _limits(events)
    now = TrainingProgress(last.step, steps, last.training_seconds, limit)
    training = status == "running" and stage == "train" and last.step and (steps or limit)
    state = RunState(
        run=run,
        status=status,
        reason=reason,
        recipe=_text(begun.get("recipe")),
        hash=_text(begun.get("hash")),
        seed=begun["seed"] if isinstance(begun.get("seed"), int) else None,
        stage=stage,
        stages=stages,
        step=last.step,
        steps=steps,
        loss=last.loss if rows else None,
        tokens=last.tokens,
        tokens_per_second=_speed(rows),
        training_seconds=last.training_seconds,
        time_limit_seconds=limit,
        seconds_left=now.steps_left * last.training_seconds / last.step if training else None,
        validation=validation_rows(events),
        warnings=current_warnings(events),
        bpb=_scores(current),
        updated=_number(events[-1].get("time")),
    )
    return RunView(state, [(row.step, row.loss) for row in rows], training_phases(events))


def _last_execution(events: Sequence[Event]) -> Sequence[Event]:
    """The events since the last time that the run was started."""
    starts = [i for i, event in enumerate(events) if event["event"] == "run"]
    return events[starts[-1] :] if starts else events


def _status(events: Sequence[Event], process: WriterProcess) -> tuple[Status, str]:
    for event in reversed(events):
        kind, stage = event["event"], event.get("stage")
        if kind in ("stage_done", "reused") and stage == "report":
            return "finished", ""
        if kind == "stopped":
            return "stopped", f"{_text(event.get('when'))}: {_text(event.get('reason'))}"
        if kind == "failed":
            return "failed", _text(event.get("message"))
    if process.exists is False:
        gone = f"{process.name} does not exist any more" if process.name else "no process writes to the folder"
        return "ended", gone
    return "running", ""


def _stages(events: Sequence[Event]) -> tuple[dict[str, float], str]:
    """(completed stage -> seconds, the stage that is or was executed last)."""
    done, current = dict[str, float](), ""
    for event in events:
        stage = event.get("stage")
        if not isinstance(stage, str):
            continue
        if event["event"] == "stage":
            done.pop(stage, None)
            current = stage
        elif event["event"] in ("stage_done", "reused"):
            done[stage] = _number(event.get("seconds")) or 0.0
            current = stage
    return done, current


def _limits(events: Sequence[Event]) -> tuple[int, float]:
    """(steps, seconds) after which the last training ends, 0 for no limit. A resumed training keeps its time limit."""
    steps, limit = 0, 0.0
    for event in events:
        if event["event"] == "training":
            steps = event["steps"] if isinstance(event.get("steps"), int) else 0
        if event["event"] in ("training", "resume"):
            limit = _number(event.get("time_limit_seconds")) or 0.0
    return steps, limit


def _speed(rows: Sequence[StepRow]) -> float | None:
    """Tokens per second in the last steps; None before the clock has moved. A GPU reports steps in groups."""
    for first in (rows[-RECENT_STEPS:][:1], [StepRow(0, 0.0, 0, 0.0)]):
        for row in first if rows else []:
            seconds = rows[-1].training_seconds - row.training_seconds
            if seconds > 0:
                return (rows[-1].tokens - row.tokens) / seconds
    return None


def _scores(events: Sequence[Event]) -> dict[str, float]:
    found = [(event.get("method"), _number(event.get("bpb"))) for event in events if event["event"] == "score"]
    return {method: bpb for method, bpb in found if isinstance(method, str) and bpb is not None}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, float | int) and not isinstance(value, bool) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
