"""Reading of the steps in a log."""

from __future__ import annotations

from typing import Any

from bitgolf.report.events import StepRow, training_losses, training_steps


def step(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "event": "step",
        "step": number,
        "loss": 0.5 * number,
        "tokens": 8 * number,
        "training_seconds": 2.0,
    } | fields


def test_resumed_steps_replace_those_before_them() -> None:
    events = [step(1), step(2), step(3), {"event": "stage"}, step(2, loss=9.0), step(3, loss=8.0)]
    assert training_steps(events) == [StepRow(1, 0.5, 8, 2.0), StepRow(2, 9.0, 16, 2.0), StepRow(3, 8.0, 24, 2.0)]
    assert training_losses(events) == [(1, 0.5), (2, 9.0), (3, 8.0)]


def test_fields_that_are_missing_or_damaged_do_not_stop_the_reading() -> None:
    events = [step(1, loss="low"), step(2, step=None), step(3, tokens=None, training_seconds=4), {"event": "step"}]
    assert training_steps(events) == [StepRow(3, 1.5, 0, 4.0)]
