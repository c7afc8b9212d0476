"""`bitgolf watch`: follow a run that is going on, here or on another machine, without writing to its folder."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TextIO

from bitgolf.errors import UsageError
from bitgolf.files import write_bytes
from bitgolf.report.display import Display, current_display
from bitgolf.report.quiet_matplotlib import quiet_matplotlib
from bitgolf.report.wrapping import line_width
from bitgolf.watch.source import open_source
from bitgolf.watch.state import RunState, RunView, view_run
from bitgolf.watch.text import current_progress, view_lines

MARGIN = 5
"""Columns of a terminal that stay free, as those of the live line."""
LEAST_SECONDS, MOST_SECONDS = 0.1, 3600.0
"""Range of the seconds between two looks at a run."""


def watch(run: str, *, every: float = 2.0, page: Path | None = None, wait: bool = False, once: bool = False) -> RunView:
    """Show a run until it ends, and return its last state.

    run: a folder, or HOST:PATH. every: seconds between two looks. page: file that gets the state as a web page. wait: wait
    for a run that has not begun. once: look once. Raises `UsageError` for a run that has not begun without either.
    """
    if not LEAST_SECONDS <= every <= MOST_SECONDS:
        message = f"must be from {LEAST_SECONDS:g} to {MOST_SECONDS:g} seconds, got {every:g}"
        raise UsageError(message, where="--every", hint="2 is the default")
    display, before = current_display(), RunView(RunState(run=run, status="not begun"))
    braille = _has_braille(sys.stderr)  # now, as the live display replaces the stream
    with open_source(run) as source:
        while True:
            process = source.process()  # before the events: a process that has gone has written them all
            view = view_run(source.name, source.events(), process)
            if view.state.status == "not begun" and not (wait or once):
                hint = "--wait waits for it; `bitgolf run RECIPE --out FOLDER` starts one"
                raise UsageError("no run has begun in this folder", where=source.name, hint=hint)
            if page:
                _write_page(page, view)
            if once or view.state.over:
                display.end_progress()
                return view
            _show(display, before, view, braille=braille)
            before = view
            time.sleep(every)


def final_lines(view: RunView) -> list[str]:
    """The state as lines for standard output."""
    return view_lines(view, width=line_width(sys.stdout), braille=_has_braille(sys.stdout))


def _show(display: Display, before: RunView, view: RunView, *, braille: bool) -> None:
    """Show a state: on a terminal in place of the one before, elsewhere what has changed."""
    if display.lines_in_place(view_lines(view, width=line_width(sys.stderr) - MARGIN, braille=braille)):
        return
    for message in _changes(before.state, view.state):
        display.message(message)
    display.progress(current_progress(view.state))


def _changes(before: RunState, after: RunState) -> list[str]:
    """What is new in a state, as messages."""
    found = [f"{after.stage} …"] if after.stage != before.stage else []
    rows = [row for row in after.validation if row not in before.validation]
    found += [f"validation {row.bpb:.4f} bpb after step {row.step:,}" for row in rows]
    return found + [f"warning: {message}" for message in after.warnings if message not in before.warnings]


def _has_braille(stream: TextIO | None) -> bool:
    """Whether a stream can write any character of Unicode."""
    return bool(stream) and (stream.encoding or "").lower().replace("-", "") == "utf8"


def _write_page(page: Path, view: RunView) -> None:
    with quiet_matplotlib():
        from bitgolf.watch.page import render_view  # when it is needed: matplotlib takes a second to import
    text = render_view(view).encode()
    if not page.exists() or page.read_bytes() != text:
        write_bytes(page, text)
