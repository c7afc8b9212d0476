"""The progress of work: share, rate, time left, and the line that says so."""

from __future__ import annotations

import pytest

from bitgolf.report.progress import Progress, WorkProgress, duration


def test_the_state_has_share_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    shown = list[Progress]()
    work = WorkProgress(shown.append, "pass 1 of 2", "bytes")
    now[0] = 110.0
    work.update(100_000_000, 400_000_000)
    assert shown[0].line(80) == "pass 1 of 2: 25 %, 30 s left, 10.0 MB/s, 100.0 MB of 400.0 MB"
    work.restart(100_000_000)
    now[0] = 120.0
    work.update(400_000_000, 400_000_000, "1.2345 bpb")
    assert shown[1].line(80) == "pass 1 of 2: 100 %, 1.2345 bpb, 30.0 MB/s, 400.0 MB of 400.0 MB"


def test_an_unknown_size_has_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.perf_counter", lambda: 5.0)
    state = WorkProgress(lambda progress: None, "read", "bytes").state(3_000_000, 0)
    assert state.share is None and state.seconds_left is None and state.details[-1] == "3.0 MB"


def test_other_units_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    work = WorkProgress(lambda progress: None, "quantize", "weights")
    now[0] = 2.0
    state = work.state(3_000, 12_000)
    assert state.details == ("1,500 weights/s", "3,000 of 12,000 weights") and state.seconds_left == 6.0


def test_a_stage_without_facts_is_its_name() -> None:
    assert Progress("train").line(80) == "train"
    assert Progress("train", 1.2, 0.0).line(80) == "train: 100 %"


def test_facts_that_do_not_fit_are_left_out_from_the_right() -> None:
    state = Progress("train", 0.5, 70.0, ("loss 3.214", "41,200 tokens/s"))
    lines = {state.line(width) for width in range(80)}
    assert lines == {
        "train",
        "train: 50 %",
        "train: 50 %, 1 min 10 s left",
        "train: 50 %, 1 min 10 s left, loss 3.214",
        "train: 50 %, 1 min 10 s left, loss 3.214, 41,200 tokens/s",
    }
    assert all(len(state.line(width)) <= max(width, len("train")) for width in range(80))


def test_the_time_left_is_unknown_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    work = WorkProgress(lambda progress: None, "compress", "tokens")
    now[0] = 4.0
    assert work.state(9, 1000).seconds_left is None and work.state(10, 1000).seconds_left == 396.0
    now[0] = 5.0
    assert work.state(1, 1000).seconds_left == 4995.0, "after some seconds it is estimated from any share"
    assert work.state(0, 1000).seconds_left is None


def test_small_sizes_are_in_kilobytes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    work = WorkProgress(lambda progress: None, "compress", "bytes")
    now[0] = 10.0
    assert work.state(66_000, 2_000_000).details == ("6.6 kB/s", "66.0 kB of 2.0 MB")


def test_durations_are_in_words() -> None:
    assert [duration(s) for s in (0.2, 59.6, 200, 7500)] == ["0 s", "1 min 00 s", "3 min 20 s", "2 h 05 min"]
