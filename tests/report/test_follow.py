"""Following a log: each event once, whatever pieces it arrives in, and from the beginning if the log is replaced."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bitgolf.report.events import read_events
from bitgolf.report.follow import EventDecoder, LogFollower

LINES = st.lists(
    st.one_of(
        st.integers(0, 10**6).map(lambda step: json.dumps({"event": "step", "step": step, "note": "é\n"}).encode()),
        st.binary(max_size=12).filter(lambda line: b"\n" not in line),
    )
)


@given(LINES, st.lists(st.integers(0, 400), max_size=8))
def test_pieces_of_a_log_give_the_events_of_the_whole(lines: list[bytes], cuts: list[int]) -> None:
    data, decoder = b"".join(line + b"\n" for line in lines), EventDecoder()
    ends = [*sorted(cuts), len(data)]
    pieces = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    found = [event for piece in pieces for event in decoder.decode(piece)]
    assert found == [event for line in lines for event in EventDecoder().decode(line + b"\n")]
    assert len(found) >= sum(line.startswith(b'{"event": "step"') for line in lines)


def test_a_log_is_followed_from_where_it_ends(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    whole, follower = LogFollower(log), LogFollower(log, start=18)
    assert whole.new_events() == []
    log.write_bytes(b'{"event": "old"}\n\n{"event": "new"}\n{"event": ')
    assert follower.new_events() == [{"event": "new"}] and follower.new_events() == []
    with log.open("ab") as handle:
        handle.write(b'"torn"}\nnonsense\n')
    assert follower.new_events() == [{"event": "torn"}]
    assert whole.new_events() == read_events(log).events == [{"event": kind} for kind in ("old", "new", "torn")]


def test_a_log_that_was_replaced_is_read_from_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"event": "old", "step": 12345}\n{"event": "unfini')
    follower = LogFollower(log)
    follower.new_events()
    log.write_bytes(b'{"event": "new"}\n')
    assert follower.new_events() == [{"event": "new"}]
