"""Programs on a terminal of their own, and a model of its screen: what a person sees, and what has scrolled away."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Self

_PIECES = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


class Screen:
    """The lines that a terminal of `width` columns shows, without an end: lines above the cursor stay as they are.

    It knows what the program writes: text, which goes on in the next line at the right edge, \\r, \\n, cursor up, erase
    line, and sequences that change no text. Any other control sequence is an error.
    """

    def __init__(self, width: int) -> None:
        self.width, self._rows, self._row, self._column = width, [""], 0, 0

    @property
    def lines(self) -> list[str]:
        """All lines from the first one to the last that is not empty, without spaces at their ends."""
        rows = [row.rstrip() for row in self._rows]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def write(self, text: str) -> None:
        """Interpret what the program has written. Raises `ValueError` for an unknown control sequence."""
        end = 0
        for piece in _PIECES.finditer(text):
            if piece.start() != end:
                break
            end = piece.end()
            numbers, command, carriage_return, new_line, written = piece.groups()
            if command:
                self._control(numbers, command)
            elif carriage_return:
                self._column = 0
            elif new_line:
                self._down()
            else:
                self._text(written)
        if end != len(text):
            raise ValueError(f"unknown control sequence: {text[end : end + 20]!r}")

    def _control(self, numbers: str, command: str) -> None:
        if command == "A":
            self._row = max(self._row - int(numbers or 1), 0)
        elif command == "K":
            row, mode = self._rows[self._row], numbers or "0"
            self._rows[self._row] = {"0": row[: self._column], "2": ""}[mode]
        elif command not in ("m", "h", "l"):
            raise ValueError(f"unknown control sequence: {numbers}{command}")

    def _text(self, text: str) -> None:
        for char in text:
            if self._column == self.width:
                self._down()
            row = self._rows[self._row].ljust(self._column)
            self._rows[self._row] = row[: self._column] + char + row[self._column + 1 :]
            self._column += 1

    def _down(self) -> None:
        self._row, self._column = self._row + 1, 0
        if self._row == len(self._rows):
            self._rows.append("")


class TerminalProgram:
    """A program whose standard input, output and error are a terminal of `width` columns.

    output: all that it wrote so far. screen: what the terminal shows.
    """

    def __init__(
        self, command: Sequence[str], width: int, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.output, self.screen = "", Screen(width)
        self._main, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        variables = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            command, stdin=other, stdout=other, stderr=other, env={**variables, "TERM": "xterm-256color", **environment},
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(other)

    def wait_for(self, shown: Callable[[str], object], seconds: float = 60) -> None:
        """Read until `shown(output)` is true. Fails if the program ends before, or after `seconds`."""
        end = time.monotonic() + seconds
        while not shown(self.output):
            assert time.monotonic() < end, self.output[-2000:]
            assert self._read(0.1), self.output[-2000:]

    def press(self, keys: bytes) -> None:
        """Send keys to the program, such as b"\\x03" for Ctrl-C."""
        os.write(self._main, keys)

    def finish(self, seconds: float = 60) -> int:
        """Read until the program ends, and return its exit status."""
        end = time.monotonic() + seconds
        while self._read(0.1):
            assert time.monotonic() < end, self.output[-2000:]
        return self.process.wait(5)

    def _read(self, seconds: float) -> bool:
        """Read what there is, and return whether the program still runs."""
        while select.select([self._main], [], [], seconds)[0]:
            try:
                data = os.read(self._main, 65_536)
            except OSError:  # all that had the terminal open have ended
                data = b""
            if not data:
                return False
            text = data.decode(errors="replace")
            self.output += text
            self.screen.write(text)
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._main)
