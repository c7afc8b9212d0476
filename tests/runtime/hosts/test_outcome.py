"""Tests of the choice of the error that ended a job among those of all its workers."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from bitgolf.errors import UsageError
from bitgolf.runtime.hosts.channel import WorkerEnded
from bitgolf.runtime.hosts.outcome import Outcome, ended_worker
from bitgolf.runtime.job_files import error_fields, write_error

PLACES = {0: "", 1: "", 2: "host 1 (b)", 3: "host 1 (b)"}
ERROR = error_fields(UsageError("rank 2: no such rows", where="train.rows", hint="set more"))


@pytest.fixture
def outcome() -> Outcome:
    return Outcome(PLACES)


def test_all_workers_succeed(outcome: Outcome) -> None:
    for rank in PLACES:
        assert not outcome.complete
        outcome.add(WorkerEnded(rank, 0))
    assert outcome.complete and outcome.status == 0 and outcome.cause() is None and not outcome.evidence()


def test_a_stated_error_comes_before_its_consequences(outcome: Outcome) -> None:
    """Workers that lose a connection may end first, with a traceback."""
    outcome.add(WorkerEnded(0, 1, traceback="connection closed"))
    outcome.lose(3)
    assert "has ended without a message" in str(outcome.cause())
    outcome.add(WorkerEnded(1, -signal.SIGKILL))
    assert str(outcome.cause()).startswith("process 1 of 4 (counted from 0) was ended by SIGKILL")
    outcome.add(WorkerEnded(2, 2, ERROR))
    cause = outcome.cause()
    assert cause and (cause.message, cause.where, cause.hint) == (
        "host 1 (b): rank 2: no such rows",
        "train.rows",
        "set more",
    )
    assert cause.exit_code == 2 and outcome.status == 1 and outcome.complete


def test_workers_that_are_killed_afterwards_are_no_cause(outcome: Outcome) -> None:
    outcome.add(WorkerEnded(0, 1, traceback="a defect"))
    outcome.close()
    outcome.add(WorkerEnded(1, -signal.SIGKILL))
    assert outcome.cause() is None and outcome.evidence() == "a defect"


def test_the_host_of_a_killed_worker_is_named(outcome: Outcome) -> None:
    outcome.add(WorkerEnded(3, -signal.SIGSEGV))
    assert "process 3 of 4 (counted from 0; host 1 (b)) was ended by SIGSEGV" in str(outcome.cause())


def test_a_process_that_has_ended_is_named_with_its_host(outcome: Outcome) -> None:
    outcome.lose(2)
    assert str(outcome.cause()).startswith("process 2 of 4 (counted from 0) on host 1 (b) has ended without a message")
    outcome.add(WorkerEnded(3, 1, lines=("last words",)))
    assert outcome.evidence() == "last words"


def test_a_worker_that_a_signal_stopped(outcome: Outcome) -> None:
    outcome.add(WorkerEnded(1, 130))
    assert outcome.interrupted and outcome.status == 130


def test_what_a_worker_leaves_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "traceback.3.txt").write_text("Traceback")
    assert ended_worker(3, tmp_path, 1, ["a"]) == WorkerEnded(3, 1, None, "Traceback", ("a",))
    write_error(tmp_path, UsageError("no", where="there"))
    found = ended_worker(2, tmp_path, 2, [str(i) for i in range(30)])
    assert found.error and found.error["message"] == "no" and len(found.lines) == 20 and not found.traceback
    assert ended_worker(2, tmp_path, 0, []).error is None
