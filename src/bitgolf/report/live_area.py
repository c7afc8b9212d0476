"""The live line of a terminal with the progress of the work, and messages above it, drawn by rich.

Apart from `display`, because rich takes a quarter of the time of a short command to import.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import IO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bitgolf.report.progress import Progress, duration
from bitgolf.report.wrapping import columns_of, terminal_width

GAP = 2
SHORTEST_BAR, LONGEST_BAR = 10, 40
MARGIN = 5
"""Columns that stay free at the end of the line, so that the `^C` of the terminal does not break it."""
REFRESHES_PER_SECOND = 5


class LiveArea:
    """The end of a terminal's screen: a line that is redrawn in place several times a second, with other lines above it.

    What else this process writes to standard error meanwhile, such as a warning of a library, is shown above it, too.
    stream: standard error.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._line, self._lines = LiveLine(Progress("")), list[str]()

    def print(self, lines: Iterable[str]) -> None:
        """Print lines of messages, which fit the terminal, above the live line."""
        for line in lines:
            self._console.print(_styled(line))

    def show(self, progress: Progress) -> None:
        """Show the state of the work in the live line."""
        if self._line.progress.stage != progress.stage:
            self._line = LiveLine(progress)
        self._line.progress, self._lines = progress, []
        self._start()

    def show_lines(self, lines: Iterable[str]) -> None:
        """Show several lines in place of the live line. The end of a line that is too long is not shown."""
        self._lines = list(lines)
        self._start()

    def _start(self) -> None:
        if self._live is None:
            self._live = Live(
                console=self._console,
                get_renderable=self._drawn,
                refresh_per_second=REFRESHES_PER_SECOND,
                transient=True,
                redirect_stdout=False,
            )
            self._live.start()
            self._console.show_cursor(True)  # a process that is killed would leave the terminal without one

    def clear(self) -> None:
        """Remove the live line."""
        live, self._live, self._line, self._lines = self._live, None, LiveLine(Progress("")), []
        if live:
            live.stop()

    def _drawn(self) -> RenderableType:
        width = (terminal_width(self._console.file) or self._console.width) - MARGIN
        if not self._lines:
            return self._line.draw(width)
        lines = [Text(line, no_wrap=True) for line in self._lines]
        for line in lines:
            line.truncate(max(width, 1), overflow="ellipsis")
        return Text("\n").join(lines)


class LiveLine:
    """The line of one stage. It keeps the widest text of each column, so that columns do not move to and fro."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self._since, self._widths = progress, time.perf_counter(), dict[int, int]()

    def draw(self, width: int) -> RenderableType:
        """The line in at most `width` columns; what does not fit is left out, from the right."""
        stage, progress = self.progress.stage[: max(width, 1)], self.progress
        if progress.share is None:
            words = self._fitting([duration(time.perf_counter() - self._since), *progress.details], width, stage)
            return _grid([Text(stage, "bold"), *map(Text, words)])
        bar_columns = SHORTEST_BAR + GAP
        facts = [progress.percent.rjust(5), progress.time_left, *progress.details]
        words = self._fitting(facts, width - bar_columns, stage)
        used = columns_of(stage) + sum(GAP + columns_of(word) for word in words) + GAP
        if width - used < SHORTEST_BAR:
            return Text(stage, "bold", no_wrap=True)
        bar = ProgressBar(total=1.0, completed=progress.share, width=min(width - used, LONGEST_BAR))
        return _grid([Text(stage, "bold"), bar, *map(Text, words)])

    def _fitting(self, words: list[str], width: int, stage: str) -> list[str]:
        """The first of these words that fit beside the stage, padded to the widest of their columns so far."""
        left, found = width - columns_of(stage), list[str]()
        for i, word in enumerate(words):
            self._widths[i] = max(self._widths.get(i, 0), columns_of(word))
            left -= GAP + self._widths[i]
            if left < 0:
                break
            found.append(word + " " * (self._widths[i] - columns_of(word)))
        return found


def _grid(cells: list[RenderableType]) -> Table:
    grid = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
    for _ in cells:
        grid.add_column(no_wrap=True)
    grid.add_row(*cells)
    return grid


def _styled(line: str) -> Text:
    """A line of a message: the clock is dim, a warning yellow."""
    styled = Text(line, no_wrap=True, overflow="ignore")
    styled.highlight_regex(r"^\[ *[0-9.]+ s\]", "dim")
    styled.highlight_regex(r"^\[ *[0-9.]+ s\] (?P<yellow>warning:)")
    return styled
