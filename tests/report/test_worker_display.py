"""What workers show reaches the display of the process that started them, which has the clock."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bitgolf.report.display import Display, current_display, open_display, shown_on
from bitgolf.report.log import RunLog
from bitgolf.report.observers import StopRequest
from bitgolf.report.progress import Progress
from bitgolf.report.worker_display import FIFO, PROGRESS_SECONDS, WorkerDisplay, showing_workers, shown_by_starter
from bitgolf.runtime import launch
from helpers.screen import TerminalProgram

WORKER = """
import sys
from pathlib import Path
from bitgolf.report.log import RunLog
from bitgolf.report.progress import Progress
from bitgolf.report.worker_display import shown_by_starter
with shown_by_starter(Path(sys.argv[1])):
    log = RunLog()
    log.info("message, even with \\udcff in a name\\nand a second line")
    log.detail("detail")
    log.progress(Progress("score", 0.25, 12.5, ("1.2345 bpb",)))
    print("printed by accident", file=sys.stderr)
    log.close()
"""


class Recorded(Display):
    """Keeps what is shown."""

    def __init__(self) -> None:
        super().__init__(verbose=True)
        self.shown = list[object]()

    def message(self, text: str) -> None:
        self.shown.append(text)

    def progress(self, progress: Progress) -> None:
        self.shown.append(progress)

    def end_progress(self) -> None:
        self.shown.append(None)


def test_what_a_worker_shows_and_prints_comes_in_order(tmp_path: Path) -> None:
    with shown_on(Recorded()) as display, showing_workers(tmp_path, display):
        ended = launch._run([sys.executable, "-c", WORKER, str(tmp_path)], StopRequest())
    assert isinstance(display, Recorded) and (ended.status, ended.lines) == (0, ["printed by accident"])
    display.shown.remove("printed by accident")
    assert display.shown[:4] == [
        "message, even with \\udcff in a name\nand a second line",
        "detail",
        Progress("score", 0.25, 12.5, ("1.2345 bpb",)),
        None,
    ]


def test_the_clock_is_that_of_the_starter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    with shown_on(open_display()) as display, showing_workers(tmp_path, display):
        now[0] += 75.5
        subprocess.run([sys.executable, "-c", WORKER, str(tmp_path)], check=True, stderr=subprocess.DEVNULL)
    assert capsys.readouterr().err.startswith("[  75.5 s] message, even")


def test_progress_is_sent_a_few_times_a_second_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = [1.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    with (tmp_path / "sent").open("wb", buffering=0) as channel:
        display = WorkerDisplay(channel)
        for i in range(100):
            display.progress(Progress("train", i / 100))
            now[0] += PROGRESS_SECONDS / 10
    assert len((tmp_path / "sent").read_bytes().splitlines()) == pytest.approx(10, abs=1)


def test_a_worker_that_is_killed_within_a_line_does_not_block_the_starter(tmp_path: Path) -> None:
    display = Recorded()
    with showing_workers(tmp_path, display), (tmp_path / FIFO).open("wb", buffering=0) as torn:
        torn.write(b'{"message": "whole"}\n{"message": "to')
    assert display.shown == ["whole", None]
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith("Thread-") and "_show" in thread.name
    ]


def test_a_display_that_nobody_reads_does_not_block_workers(tmp_path: Path) -> None:
    class Broken(Recorded):
        def message(self, text: str) -> None:
            super().message(text)
            raise BrokenPipeError

    display = Broken()
    with showing_workers(tmp_path, display), shown_by_starter(tmp_path):
        for _ in range(2000):  # more than a pipe holds
            current_display().message("x" * 200)
    assert len(display.shown) == 2000 + 2


def test_a_starter_that_has_ended_is_no_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb", buffering=0) as channel:
        WorkerDisplay(channel).message("nobody listens")


def test_a_worker_without_a_starter_that_listens_shows_its_messages_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with shown_by_starter(tmp_path):
        RunLog().info("to standard error")
    assert "to standard error" in capsys.readouterr().err


STARTER = f"""
import sys, tempfile, time
from pathlib import Path
from bitgolf.report.display import open_display, shown_on
from bitgolf.report.log import RunLog
from bitgolf.report.observers import StopRequest
from bitgolf.report.worker_display import showing_workers
from bitgolf.runtime import launch
WORKER = {WORKER!r}.replace("log.close()", "import time; time.sleep(1); log.close()")
with shown_on(open_display()) as display, tempfile.TemporaryDirectory() as folder:
    RunLog().info("of the starter")
    with showing_workers(Path(folder), display):
        launch._run([sys.executable, "-c", WORKER, folder], StopRequest())
"""


def test_a_worker_has_the_live_line_of_the_terminal() -> None:
    with TerminalProgram([sys.executable, "-c", STARTER], 80) as running:
        running.wait_for(lambda output: "1.2345 bpb" in output and "accident" in output)
        line = running.screen.lines[-1]
        assert line.startswith("score  ━") and "25 %" in line and "12 s left" in line
        assert running.finish() == 0
    messages = [line.partition("] ")[2] or line.strip() for line in running.screen.lines]
    assert messages[0] == "of the starter" and sorted(messages[1:]) == [
        "and a second line",
        "message, even with \\udcff in a name",
        "printed by accident",
    ]
