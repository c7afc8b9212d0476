"""What a person sees while a command runs: on terminals of 80 and 120 columns, without a terminal, with --quiet."""

from __future__ import annotations

import io
import itertools
import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest

from bitgolf.report.display import NotebookDisplay, PlainDisplay, QuietDisplay, current_display, open_display, shown_on
from bitgolf.report.log import RunLog
from bitgolf.report.progress import Progress
from helpers.screen import Screen, TerminalProgram

BEGIN = """
import signal, sys, time, warnings
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
from bitgolf.report.display import current_display, open_display, shown_on
from bitgolf.report.log import RunLog
from bitgolf.report.progress import Progress
def facts(i, n=8):
    return Progress("train", i / n, (n - i) * 100.0, (f"loss {9 - i / 10:.3f}", f"{i * 1000:,} tokens/s", f"step {i:,}"))
"""


def program(body: str) -> list[str]:
    """A program that shows something on its display, as the command line would."""
    body = textwrap.indent(textwrap.dedent(body), "    ")
    return [sys.executable, "-c", f"{BEGIN}\nlog = RunLog()\nwith shown_on(open_display()):\n{body}\n"]


STEPS = """
for i in range(9):
    log.progress(facts(i))
    time.sleep(0.1)
    if i == 4:
        signal.sigwait([signal.SIGUSR1])  # of the test, when it has looked
        log.info("a message in the middle " + "of many words " * 12)
        print("a library prints this", file=sys.stderr)
        warnings.warn("and this")
log.info("the end")
"""


@pytest.mark.parametrize("width", [80, 120])
def test_a_live_line_never_exceeds_the_width_and_is_gone_at_the_end(width: int) -> None:
    with TerminalProgram(program(STEPS), width) as running:
        running.wait_for(lambda output: "50 %" in output)
        assert len(running.screen.lines) == 1, "nothing but the live line"
        line = running.screen.lines[0]
        assert line.startswith("train  ━") and "50 %  6 min 40 s left" in line and "loss 8.600" in line
        assert ("step 4" in line) == (width == 120), "what does not fit is left out from the right"
        os.kill(running.process.pid, signal.SIGUSR1)
        assert running.finish() == 0
        shown = running.screen.lines
    assert all(0 < len(line) <= width for line in shown)
    message = [line for line in shown if line.startswith("[")]
    assert "a message in the middle" in message[0] and "the end" in message[-1] and len(message) == 2
    after = shown.index(message[0]) + 1
    assert shown[after].startswith(" " * 11) and shown[after][11:].strip().startswith(("of", "many", "words"))
    assert "a library prints this" in shown and any("UserWarning: and this" in line for line in shown)
    assert not any("train" in line or "━" in line for line in shown), "no line of progress is left behind"


def test_an_interrupt_leaves_no_live_line_and_shows_the_cursor() -> None:
    body = """
    log.progress(facts(3))
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        log.close()
        print("bitgolf: interrupted", file=sys.stderr)
    """
    with TerminalProgram(program(body), 80) as running:
        running.wait_for(lambda output: output.count("38 %") > 2)
        assert running.output.rfind("\x1b[?25h") > running.output.rfind("\x1b[?25l"), "also if the program is killed"
        running.press(b"\x03")
        assert running.finish() == 0
        assert running.screen.lines == ["bitgolf: interrupted"]
        assert running.output.rfind("\x1b[?25h") > running.output.rfind("\x1b[?25l")


def test_a_stage_of_unknown_size_shows_its_time() -> None:
    with TerminalProgram(program("log.progress(Progress('prepare'))\ntime.sleep(1.5)"), 80) as running:
        running.wait_for(lambda output: "prepare" in output and "1 s" in output)
        assert running.screen.lines[0].split() == ["prepare", "1", "s"]
        assert running.finish() == 0 and running.screen.lines == []


def test_a_very_narrow_terminal_shows_the_stage_alone() -> None:
    with TerminalProgram(program("log.progress(facts(3))\ntime.sleep(0.6)"), 20) as running:
        running.wait_for(lambda output: "train" in output)
        assert running.screen.lines == ["train"] and running.finish() == 0


def test_without_a_terminal_there_are_whole_lines_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setenv("COLUMNS", "60")
    with shown_on(open_display()) as display:
        assert isinstance(display, PlainDisplay)
        log = RunLog()
        for step in range(12):
            log.progress(Progress("train", step / 12, 12.0 - step, (f"loss {step}.000",)))
            now[0] += 1.0
        log.progress(Progress("score"))
        log.info("a message that is longer than sixty columns and is broken at its words")
        log.detail("not shown without --verbose")
    printed = capsys.readouterr().err
    assert printed.splitlines() == [
        "[   5.0 s] train: 42 %, 7 s left, loss 5.000",
        "[  10.0 s] train: 83 %, 2 s left, loss 10.000",
        "[  12.0 s] a message that is longer than sixty columns and",
        "           is broken at its words",
    ]
    assert "\x1b" not in printed and "\r" not in printed


def test_control_characters_of_names_do_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    PlainDisplay().message("file \x1b[2K\udcff\tname\nsecond line")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(r"s] file \x1b[2K\udcff    name") and second == " " * 11 + "second line"


def test_details_are_shown_with_verbose_and_always_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verbose in (False, True):
        with shown_on(open_display(verbose=verbose)):
            log = RunLog(tmp_path)
            log.detail("a detail")
            log.close()
        assert ("a detail" in capsys.readouterr().err) == verbose
    assert (tmp_path / "run.log").read_text() == "a detail\n" * 2


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_on(open_display(quiet=True)) as display:
        assert isinstance(display, QuietDisplay)
        log = RunLog()
        log.event("warning", message="careful")
        log.info("message")
        log.detail("detail")
        log.progress(Progress("train", 0.5))
        log.close()
    assert capsys.readouterr() == ("", "")


def test_the_display_of_a_block_ends_with_it() -> None:
    before = current_display()
    with shown_on(QuietDisplay()) as inner:
        assert current_display() is inner
    assert current_display() is before


def test_a_closed_standard_error_moves_no_message_to_the_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    open_display().message("nobody reads this")
    assert capsys.readouterr().out == ""


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(open_display(), PlainDisplay)


def test_the_screen_of_these_tests_shows_what_a_terminal_does() -> None:
    screen = Screen(10)
    screen.write("abcdefghijk\r\nx\x1b[1A\r\x1b[2Ky\x1b[1;31mz\x1b[0m")
    assert screen.lines == ["abcdefghij", "yz", "x"]
    with pytest.raises(ValueError, match="unknown control sequence"):
        screen.write("\x1b[3;4H")


class KernelStream(io.StringIO):
    """Standard error of a notebook's kernel, recognized by the module of its class."""

    __module__ = "ipykernel.iostream"


def as_notebooks_show(text: str) -> list[str]:
    """The lines of an output: what follows a carriage return covers the beginning of the line."""
    lines = []
    for written in text.split("\n"):
        shown = ""
        for piece in written.split("\r"):
            shown = piece + shown[len(piece) :]
        lines.append(shown.rstrip())
    return lines


def test_a_notebook_has_one_line_of_progress_below_the_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = KernelStream()
    monkeypatch.setattr(sys, "stderr", stream)
    assert type(open_display()) is NotebookDisplay and type(open_display(quiet=True)) is QuietDisplay
    with shown_on(NotebookDisplay(every=0)) as display:
        display.message("first")
        display.progress(Progress("train", 0.25, details=("a long detail",)))
        display.progress(Progress("train", 0.5))
        first, line = as_notebooks_show(stream.getvalue())
        assert first.endswith("first") and line.endswith("train: 50 %")
        display.message("second, which is longer than the line of progress")
        display.progress(Progress("score"))
    lines = as_notebooks_show(stream.getvalue())
    assert [line.partition("] ")[2] for line in lines] == [
        "first",
        "second, which is longer than the line of progress",
        "",
    ]
    assert lines[-1] == "", "nothing is left of the progress"


def test_a_notebook_is_not_flooded(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = KernelStream()
    monkeypatch.setattr(sys, "stderr", stream)
    clock = itertools.count()  # hundredths of a second, one each time that it is read
    monkeypatch.setattr("bitgolf.report.display.time.perf_counter", lambda: next(clock) / 100)
    display = NotebookDisplay(every=0.5)
    for _ in range(500):
        display.progress(Progress("train", 0.5))
    assert 5 <= stream.getvalue().count("train") <= 15
