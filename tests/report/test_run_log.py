"""The log of a run: a delayed one writes nothing before it is told to, and then everything in order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitgolf.report.display import QuietDisplay, shown_on
from bitgolf.report.log import EVENTS_FILE, LINES_FILE, RunLog
from bitgolf.report.progress import Progress


def test_a_delayed_log_writes_what_it_kept_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    log = RunLog(folder, delayed=True)
    log.event("run", seed=3)
    log.info("before")
    log.info("printed only", record=False)
    assert not folder.exists()
    log.start_writing()
    log.event("warning", message="careful")
    log.start_writing()
    log.info("after é")
    log.close()
    lines = (folder / LINES_FILE).read_text().splitlines()
    assert lines == ["run seed:3", "before", "warning message:careful", "after é"]
    events = [json.loads(line) for line in (folder / EVENTS_FILE).read_text().splitlines()]
    assert [event["event"] for event in events] == ["run", "warning"]
    printed = capsys.readouterr().err
    assert printed.index("before") < printed.index("printed only") < printed.index("warning: careful")


def test_a_log_that_never_starts_leaves_no_file(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "run"):
        log = RunLog(folder, quiet=True, delayed=True)
        log.event("run")
        log.info("line")
        log.close()
    assert not list(tmp_path.iterdir())


def test_a_log_on_a_quiet_display_writes_its_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(tmp_path)
    with shown_on(QuietDisplay()):
        log.info("one")
        log.event("warning", message="two")
        log.progress(Progress("three"))
        log.info("four")
    assert capsys.readouterr().err == ""
    log.info("five")
    log.close()
    assert "five" in capsys.readouterr().err
    assert [word in (tmp_path / "run.log").read_text() for word in ("one", "two", "three", "four")] == [
        True,
        True,
        False,
        True,
    ]
