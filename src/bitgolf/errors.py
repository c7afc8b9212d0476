"""The one kind of error a user sees: what is wrong, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class BitgolfError(Exception):
    """A failure with a cause, a place (file, path in a recipe, tensor) and a mend. Exit status 1."""

    exit_code = 1

    def __init__(self, cause: str, *, place: str = "", mend: str = "") -> None:
        self.cause, self.place, self.mend = cause, place, mend
        super().__init__(cause)

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        mend = f"\n  mend: {self.mend}" if self.mend else ""
        return f"{where}{self.cause}{mend}"


class UsageError(BitgolfError):
    """The caller asked for something that does not exist or does not fit. Exit status 2."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe that cannot be built: wrong name, wrong type, dead rule, an edit that touches nothing."""


class DamagedError(BitgolfError):
    """A file that is truncated, altered, or not what it claims to be."""


class FormatVersionError(DamagedError):
    """A file whose format version is not the one that this version of Bitgolf reads.

    `file` says what it is ("the artifact", "the run folder"), `found` is the version that stands in it (None where
    none does) and `supported` the version that is read.
    """

    def __init__(self, file: str, *, found: object, supported: int, place: str = "") -> None:
        version = "no format number" if found is None else f"format {found}"
        super().__init__(
            f"{file} has {version}; this version reads format {supported}",
            place=place,
            mend="make it again with this version, or read it with the version that wrote it",
        )


class Interrupted(BitgolfError):
    """A signal stopped training; its state is saved."""

    exit_code = 130


@contextmanager
def at(place: str) -> Iterator[None]:
    """Errors from inside that name no place name this one."""
    try:
        yield
    except BitgolfError as error:
        error.place = error.place or place
        raise


def exception_chain(error: BaseException) -> list[BaseException]:
    """An exception and what led to it (`__cause__`, otherwise `__context__`), the first cause last."""
    chain = [error]
    while (earlier := chain[-1].__cause__ or chain[-1].__context__) is not None and earlier not in chain:
        chain.append(earlier)
    return chain
