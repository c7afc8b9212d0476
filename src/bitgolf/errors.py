"""Exceptions that the command line prints as one message: what is wrong, where, and a hint."""

from __future__ import annotations

import errno
import os
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


class Stopped(BitgolfError):
    """An observer of a run asked for its end, and the run ended as after an interrupt. Exit status 1.

    when: such as "after step 40". reason: of the observer.
    """

    def __init__(self, when: str, reason: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(f"stopped {when}: {reason}", where=where, hint=hint)
        self.when, self.reason = when, reason


class Unsupported(Exception):
    """No fused module can replace this part; the message is the reason. Internal: the reference module is kept."""


OS_ERRORS: dict[int, tuple[type[BitgolfError], str, str]] = {
    errno.ENOENT: (UsageError, "no such file or folder", "check the path"),
    errno.ENOTDIR: (UsageError, "a part of the path is a file, not a folder", "choose another path"),
    errno.EISDIR: (UsageError, "this is a folder, a file is expected", "name a file"),
    errno.EEXIST: (UsageError, "a file of this name exists, where a folder is expected", "choose another path"),
    errno.ENAMETOOLONG: (UsageError, "the name is too long for the file system", "choose a shorter path"),
    errno.ELOOP: (UsageError, "too many symbolic links, perhaps a cycle", "name the file itself"),
    errno.EACCES: (BitgolfError, "permission denied", "choose a path that you may use, or change its permissions"),
    errno.EPERM: (BitgolfError, "the operation is not permitted", "choose a path that you may use"),
    errno.EROFS: (BitgolfError, "the file system is read-only", "choose a path on another file system"),
    errno.ENOSPC: (BitgolfError, "the disk is full", "free some space, or choose a path on another disk"),
    errno.EDQUOT: (BitgolfError, "the disk quota is used up", "free some space, or choose a path on another disk"),
    errno.EFBIG: (BitgolfError, "the file would exceed the largest size allowed", "raise the limit: `ulimit -f`"),
    errno.EMFILE: (BitgolfError, "this process has too many files open", "raise the limit: `ulimit -n`"),
    errno.ENFILE: (BitgolfError, "the machine has too many files open", "end other programs"),
    errno.ENOMEM: (BitgolfError, "there is not enough memory", "end other programs, or use smaller settings"),
    errno.EAGAIN: (BitgolfError, "the system has no free processes or threads", "end other programs"),
    errno.EIO: (BitgolfError, "the device failed to read or write", "check the disk; copy the data to another one"),
    errno.ESTALE: (BitgolfError, "the network file system lost the file", "run the command again"),
    errno.EBUSY: (BitgolfError, "the file is in use", "end the program that uses it"),
}
"""Error number of the operating system -> class, message and hint of the error that is printed."""


def describe_os_error(error: OSError) -> BitgolfError:
    """Return the error to print for an error of the operating system: cause, file if known, and hint.

    Exit status 2 if the path is wrong, 1 if the machine refused.
    """
    path = error.filename if isinstance(error.filename, str | bytes | os.PathLike) else ""
    where = printable(os.fsdecode(path)) if path else ""
    if error.errno in OS_ERRORS:
        kind, message, hint = OS_ERRORS[error.errno]
        return kind(message, where=where, hint=hint)
    cause = error.strerror or str(error) or type(error).__name__
    return BitgolfError(f"the operating system reports: {cause}", where=where)


def printable(name: str) -> str:
    """Return a file name without line breaks and bytes that are not UTF-8, which are written as escapes."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in name)


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
