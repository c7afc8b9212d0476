"""The end of a failed command: every exception becomes one message on standard error and an exit status."""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from bitgolf.cli.usage_errors import CommandLineError, describe_usage
from bitgolf.errors import BitgolfError, Interrupted, printable
from bitgolf.report.failures import describe
from bitgolf.report.wrapping import line_width, wrap

READER_GONE = 141
"""Exit status if the program that reads the output ended first: that of a program that SIGPIPE ends (128 + 13)."""

STANDARD_OUTPUT = "standard output"
"""The name of the stream in messages."""

LONGEST_LINE = 1000
"""Characters of a line of a message; what was given on the command line may be longer."""


def report_failure(error: BaseException, words: Sequence[str] = (), *, debug: bool = False) -> int:
    """Print the message of an exception and return the exit status.

    words: those of the command line. debug: print the traceback first. Otherwise the traceback of an unexpected exception
    is written to a file, which the message names.
    """
    if isinstance(error, BrokenPipeError) and (error.filename in _open_streams() or reader_is_gone()):
        return READER_GONE
    if debug:
        traceback.print_exception(error)
    elif type(error).__name__ == "NoArgsIsHelpError" and isinstance(error, CommandLineError):
        print(error.format_message(), file=sys.stderr)
        return error.exit_code
    described = (
        describe_usage(error, words) if isinstance(error, CommandLineError) else describe(error, write=not debug)
    )
    if described.exit_code == Interrupted.exit_code:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program is ending: a second one would print a traceback
    print_error(described)
    return described.exit_code


def print_error(error: BitgolfError) -> None:
    """Print an error to standard error: in lines that fit, without control characters of what was given."""
    lines = [printable(line) for line in f"bitgolf: {error}".splitlines()]
    lines = [line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} …" for line in lines]
    if not sys.stderr:  # closed; `print` would take standard output
        return
    width = line_width(sys.stderr)
    try:
        print(*(part for line in lines for part in wrap(line, width, rest="  ")), sep="\n", file=sys.stderr, flush=True)
    except OSError:  # nobody reads standard error, or its disk is full
        discard_output(sys.stderr)


def finish_output() -> int:
    """Write what is left of the output, and return the exit status. Raises `OSError` if it cannot be written."""
    for name, stream in _open_streams().items():
        try:
            stream.flush()
        except OSError as error:
            discard_output(stream)
            error.filename = name
            raise
    return 0


def _open_streams() -> dict[str, IO[str]]:
    """Standard output and standard error by name, without one that is closed."""
    streams = {STANDARD_OUTPUT: sys.stdout, "standard error": sys.stderr}
    return {name: stream for name, stream in streams.items() if stream}


def reader_is_gone() -> bool:
    """Return whether a program that read standard output or standard error has ended.

    What is still to be written there is discarded, since Python would report it when it ends.
    """
    gone = [stream for stream in _open_streams().values() if _is_closed_pipe(stream)]
    for stream in gone:
        discard_output(stream)
    return bool(gone)


def _is_closed_pipe(stream: IO[str]) -> bool:
    try:
        descriptor, poll = stream.fileno(), select.poll()
    except (OSError, ValueError, AttributeError):  # no file of the system, or a system without `poll`
        return False
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def discard_output(stream: IO[str]) -> None:
    """Let all further output to a stream be discarded."""
    with suppress(OSError, ValueError), Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
