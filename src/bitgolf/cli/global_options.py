"""Options of the program that may stand anywhere on the command line, also after the command."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from bitgolf.errors import UsageError

FLAGS = {"--quiet": "quiet", "-q": "quiet", "--verbose": "verbose", "-v": "verbose", "--debug": "debug"}
WIDTH = "--width"
LEAST_WIDTH, LARGEST_WIDTH = 40, 10_000


@dataclass
class GlobalOptions:
    """quiet: show only the result, or the error. verbose: show details. width: columns of tables and messages, None for
    those of the terminal. debug: show the traceback of an error.
    """

    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    width: int | None = None


def split_global_options(words: Sequence[str], with_value: Collection[str]) -> tuple[GlobalOptions, list[str]]:
    """Return the options of the program, and the other words of the command line.

    with_value: names of the commands' options that take the next word as their value, whatever it is. Words after `--`
    are no options. Raises `UsageError` if --width has no number in its range, or --quiet and --verbose are both given.
    """
    options, others, rest = GlobalOptions(), list[str](), iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if word == "--":
            others += [word, *rest]
        elif word in FLAGS:
            setattr(options, FLAGS[word], True)
        elif name == WIDTH:
            options.width = _width(value if equals else next(rest, ""))
        else:
            others.append(word)
            if word in with_value:
                others += _one(rest)
    if options.quiet and options.verbose:
        raise UsageError("--quiet and --verbose exclude each other", hint="leave one of them out")
    return options, others


def _one(words: Iterator[str]) -> list[str]:
    """The next word, if there is one."""
    return [word for word in [next(words, None)] if word is not None]


def _width(text: str) -> int:
    if not (text.isdecimal() and len(text) < 9 and LEAST_WIDTH <= int(text) <= LARGEST_WIDTH):
        message = f"expected a number of columns from {LEAST_WIDTH} to {LARGEST_WIDTH:,}, got {text!r}"
        raise UsageError(message, where=WIDTH, hint="for example --width 120")
    return int(text)
