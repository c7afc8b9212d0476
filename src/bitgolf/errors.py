"""Exceptions that the command line prints as one message: what is wrong, where, and a hint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_QUOTE, LONGEST_PATH = 200, 1_000
"""Largest numbers of characters that a message quotes of a value, and of a path."""


def shorten_words(text: str, most: int = LONGEST_QUOTE) -> str:
    """Replace the middle of each run of more than `most` characters without spaces by its number of characters."""
    return re.sub(rf"\S{{{most + 1},}}", lambda match: quoted(match[0], most), text)


def quoted(text: str, most: int = LONGEST_QUOTE) -> str:
    """Return a text of at most about `most` characters: a longer one loses its middle, and states its length."""
    if len(text) <= most:
        return text
    note = f"… ({len(text):,} characters) …"
    return f"{text[: most - 50]}{note}{text[-20:]}"


class BitgolfError(Exception):
    """Base class of Bitgolf's errors. The command line prints it and exits with status 1.

    where: the file, option, recipe path or tensor concerned, "" if unknown. hint: what the user can do, "" if unknown.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        self.message, self.where, self.hint = message, where, hint
        super().__init__(message)

    def __str__(self) -> str:
        """The error as it is printed. Long words are shortened: what a user gave is quoted with at most a line."""
        where = f"{shorten_words(self.where, LONGEST_PATH)}: " if self.where else ""
        hint = f"\n  hint: {shorten_words(self.hint, LONGEST_PATH)}" if self.hint else ""
        return f"{where}{shorten_words(self.message)}{hint}"


class UsageError(BitgolfError):
    """Invalid input: a path, option or value that does not exist or is out of range. Exit status 2."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe that cannot be built: an unknown name, a wrong type, a rule or an edit without effect."""


class CorruptFileError(BitgolfError):
    """A file that is truncated, altered or not of the expected type."""


class FormatVersionError(CorruptFileError):
    """A file whose format version is not the one that this version of Bitgolf reads.

    file: the file's role, for the message ("the artifact", "the run folder"). found: the version stored in the file,
    None if it stores none. supported: the version that this version of Bitgolf reads.
    """

    def __init__(self, file: str, *, found: object, supported: int, where: str = "") -> None:
        version = "no format number" if found is None else f"format {found}"
        super().__init__(
            f"{file} has {version}; this version reads format {supported}",
            where=where,
            hint="make it again with this version of Bitgolf, or read it with the version that wrote it",
        )


class Interrupted(BitgolfError):
    """A signal stopped the program; training has saved a checkpoint. Exit status 130."""

    exit_code = 130


class Unsupported(Exception):
    """No fused module can replace this part; the message is the reason. Internal: the reference module is kept."""


@contextmanager
def error_location(where: str) -> Iterator[None]:
    """Set `where` on every `BitgolfError` that leaves the block without one."""
    try:
        yield
    except BitgolfError as error:
        error.where = error.where or where
        raise


def exception_chain(error: BaseException) -> list[BaseException]:
    """Return the exception, its cause (`__cause__`, otherwise `__context__`), the cause of that, and so on."""
    chain = [error]
    while (earlier := chain[-1].__cause__ or chain[-1].__context__) is not None and earlier not in chain:
        chain.append(earlier)
    return chain
