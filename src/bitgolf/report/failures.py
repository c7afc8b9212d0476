"""The error to print for any exception, in the command and in its worker processes."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback

from bitgolf import __version__
from bitgolf.errors import BitgolfError, Interrupted, UsageError, describe_os_error, exception_chain


def describe(error: BaseException, *, write: bool = True) -> BitgolfError:
    """Return the error to print for any exception.

    write: write the traceback of an unexpected exception to a file.
    """
    if isinstance(error, BitgolfError):
        return error
    if any(isinstance(earlier, KeyboardInterrupt) for earlier in exception_chain(error)):
        return Interrupted("interrupted")
    if isinstance(error, OSError):
        return describe_os_error(error)
    if isinstance(error, RuntimeError) and str(error).startswith(
        "Symlink loop"
    ):  # of `Path.resolve`, until Python 3.13
        return UsageError(first_line(error).lower(), hint="name the file itself")
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return BitgolfError("there is not enough memory", hint="end other programs, or use smaller settings")
    if any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__):  # of torch, which is not imported here
        return BitgolfError(f"not enough memory on the device: {first_line(error)}", hint="use smaller settings")
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        name = os.fsencode(error.object[:200])
        return UsageError(f"a name must be valid UTF-8 here, got {name!r}", hint="rename the file or the folder")
    return describe_defect(error, write=write)


def first_line(error: BaseException) -> str:
    """Return the first line of the message of an exception, at most 200 characters."""
    return str(error).partition("\n")[0][:200]


def describe_defect(error: BaseException, *, write: bool) -> BitgolfError:
    """Return the error to print for an exception that the program should not raise.

    write: write the traceback to a file, for a report.
    """
    message = f"this is a defect of bitgolf ({type(error).__name__}: {first_line(error)})"
    where = write_traceback(error) if write else "above"
    hint = (
        f"please report it with the traceback {where}" if where else "--debug prints the traceback; please report both"
    )
    return BitgolfError(message, hint=hint)


def write_traceback(error: BaseException) -> str:
    """Write a traceback to a new temporary file; returns "in FILE", or "" if that is not possible."""
    header = f"bitgolf {__version__}, Python {platform.python_version()}, {platform.platform()}\n{sys.argv!r}\n\n"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="bitgolf-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(header + "".join(traceback.format_exception(error)))
    except OSError:
        return ""
    return f"in {file.name}"
