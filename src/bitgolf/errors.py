"""The one kind of error a user sees: what is wrong, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class BitgolfError(Exception):
    """A failure with a cause, a place (file, path in a recipe, tensor) and a mend. Exit status 1."""

    exit_code = 1

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        self.message, self.where, self.hint = message, where, hint
        super().__init__(message)

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        hint = f"\n  hint: {self.hint}" if self.hint else ""
        return f"{where}{self.message}{hint}"


class UsageError(BitgolfError):
    """The caller asked for something that does not exist or does not fit. Exit status 2."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe that cannot be built: wrong name, wrong type, dead rule, an edit that touches nothing."""


class CorruptFileError(BitgolfError):
    """A file that is truncated, altered, or not what it claims to be."""


class FormatVersionError(CorruptFileError):
    """A file whose format version is not the one that this version of Bitgolf reads.

    `file` says what it is ("the artifact", "the run folder"), `found` is the version that stands in it (None where
    none does) and `supported` the version that is read.
    """

    def __init__(self, file: str, *, found: object, supported: int, where: str = "") -> None:
        version = "no format number" if found is None else f"format {found}"
        super().__init__(
            f"{file} has {version}; this version reads format {supported}",
            where=where,
            hint="make it again with this version, or read it with the version that wrote it",
        )


class Interrupted(BitgolfError):
    """A signal stopped training; its state is saved."""

    exit_code = 130


class Unsupported(Exception):
    """A fused module cannot stand for this part, with the reason. Not an error: the reference module stays."""


@contextmanager
def error_location(where: str) -> Iterator[None]:
    """Errors from inside that name no place name this one."""
    try:
        yield
    except BitgolfError as error:
        error.where = error.where or where
        raise


def exception_chain(error: BaseException) -> list[BaseException]:
    """An exception and what led to it (`__cause__`, otherwise `__context__`), the first cause last."""
    chain = [error]
    while (earlier := chain[-1].__cause__ or chain[-1].__context__) is not None and earlier not in chain:
        chain.append(earlier)
    return chain
