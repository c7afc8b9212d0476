"""Observers of a log, and the request to stop that they make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitgolf.report.events import read_events
from bitgolf.report.log import RunLog
from bitgolf.report.observers import StopRequest


def test_observers_receive_what_the_log_has(tmp_path: Path) -> None:
    """Also what a delayed log has not written yet."""
    seen = list[dict[str, Any]]()
    log = RunLog(tmp_path, delayed=True, quiet=True, observers=[seen.append, lambda event: None])
    log.event("run", seed=3)
    assert [event["event"] for event in seen] == ["run"] and not log.is_writing
    log.start_writing()
    log.event("warning", message="careful")
    log.close()
    assert seen == read_events(tmp_path / "log.jsonl").events and not log.stop.reason


def test_the_first_reason_counts() -> None:
    log = RunLog(quiet=True, observers=[lambda event: event.get("why"), lambda event: "later"])
    log.event("step", why="too slow")
    log.event("step", why="another")
    assert log.stop.reason == "too slow"


def test_actions_of_a_request_are_done_once_and_only_within_their_block() -> None:
    stop, done = StopRequest(), list[str]()
    with stop.calling(lambda: done.append("before")):
        pass
    with stop.calling(lambda: done.append("within")):
        stop.request("why")
        stop.request("again")
    with stop.calling(lambda: done.append("after")):
        pass
    assert done == ["within", "after"] and stop.reason == "why"
