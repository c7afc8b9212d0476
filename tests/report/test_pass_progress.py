"""The progress of a pass: share, rate, time left."""

from __future__ import annotations

import pytest

from bitgolf.report.log import RunLog
from bitgolf.report.pass_progress import PassProgress, duration


def test_a_line_has_share_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now, done = [100.0], [0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    progress = PassProgress(RunLog(quiet=True), "pass", 400_000_000, lambda: done[0])
    now[0], done[0] = 110.0, 100_000_000
    assert progress.line() == "[#####...............] 25 % of 400 MB, 10.0 MB/s, 30 s left"
    progress.restart()
    now[0], done[0] = 120.0, 400_000_000
    assert progress.line() == "[####################] 100 % of 400 MB, 30.0 MB/s"


def test_an_unknown_size_has_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.perf_counter", lambda: 5.0)
    assert PassProgress(RunLog(quiet=True), "pass", 0, lambda: 3_000_000).line().startswith("3 MB, ")


def test_durations_are_in_words() -> None:
    assert [duration(s) for s in (0.2, 59.6, 200, 7500)] == ["0 s", "1 min 00 s", "3 min 20 s", "2 h 05 min"]
