"""Exceptions that the command line prints as one message: what is wrong, where, and a hint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class BitgolfError(Exception):
    """Base class of Bitgolf's errors. The command line prints it and exits with status 1.

    where: the file, option, recipe path or tensor concerned, "" if unknown. hint: what the user can do, "" if unknown.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        self.message, self.where, self.hint = message, where, hint
        super().__init__(message)

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        hint = f"\n  hint: {self.hint}" if self.hint else ""
        return f"{where}{self.message}{hint}"


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
