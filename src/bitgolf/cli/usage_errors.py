"""Errors of the command line's parser in the style of all others: what is wrong, where, and what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from bitgolf.cli.global_options import FLAGS, WIDTH
from bitgolf.errors import UsageError, quoted


@runtime_checkable
class CommandLineError(Protocol):
    """An error of typer in parsing the command line. Its class depends on the release of typer."""

    exit_code: int

    def format_message(self) -> str: ...


Description = tuple[str, str, str]
"""Message, where and hint; "" for a hint that names the help."""

EXPECTED = {
    r"input should be a valid integer.*|.*is not a valid integer.*": "must be a whole number",
    r"input should be a valid number.*|.*is not a valid float.*": "must be a number",
    r"input should be greater than or equal to (\S+)|.*is not in the range x>=(\S+?)\.?": "must be at least {}",
    r"input should be less than or equal to (\S+)|.*is not in the range x<=(\S+?)\.?": "must be at most {}",
}
"""Pattern of a message of typer, in lower case -> ours, with what the group matched."""
UNITS = {"k": 10**3, "m": 10**6, "g": 10**9}


def describe_usage(error: CommandLineError, words: Sequence[str] = ()) -> UsageError:
    """Return typer's error in the style of all others. words: those of the command line, without the program."""
    describe = DESCRIPTIONS.get(type(error).__name__, _other)
    message, where, hint = describe(error, words)
    return UsageError(
        message, where=where, hint=hint or f"`{_command(error, words)} --help` lists arguments and options"
    )


def _command(error: Any, words: Sequence[str]) -> str:
    """The program and its command. Some errors do not know it; then it is taken from the words."""
    if context := getattr(error, "ctx", None):
        return context.command_path
    names = [word for word in words[: 2 if words[:1] == ["data"] else 1] if not word.startswith("-")]
    return " ".join(["bitgolf", *names])


def _usage(error: Any) -> str:
    """The line that says which arguments a command takes, "" if the error does not know its command."""
    context = getattr(error, "ctx", None)
    return "usage: " + " ".join(re.sub("[{}]", "", context.get_usage().partition(":")[2]).split()) if context else ""


def _missing(error: Any, words: Sequence[str]) -> Description:
    param = error.param
    if param is None:
        return _other(error, words)
    if param.param_type_name == "argument":
        return f"the argument {(param.metavar or param.name).upper().strip('[]')} is missing", "", _usage(error)
    return f"the option {max(param.opts, key=len)} is missing", "", ""


def _bad_value(error: Any, words: Sequence[str]) -> Description:
    param, message = error.param, str(error.message).strip().rstrip(".")
    where = "" if param is None else max(param.opts, key=len) if param.opts else str(param.name)
    given = _value_of(where, words)
    got = f", got {quoted(given)}" if given else ""
    for pattern, expected in EXPECTED.items():
        if match := re.fullmatch(pattern, message.lower()):
            bound = next(filter(None, match.groups()), "")
            return expected.format(bound) + got, where, _number_hint(given)
    return message[:1].lower() + message[1:] + got, where, ""


def _value_of(option: str, words: Sequence[str]) -> str:
    """The value that was given to an option, "" if it is not among the words."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return ""


def _number_hint(given: str) -> str:
    """A hint for a number with a unit: 16MB is 16000000."""
    match = re.fullmatch(r"(\d+)([kmg])b?", given.lower())
    return f"write {int(match[1]) * UNITS[match[2]]}" if match else ""


def _no_option(error: Any, words: Sequence[str]) -> Description:
    name = str(error.option_name)
    known = [option for param in error.ctx.command.params for option in param.opts] if error.ctx else []
    known += [option for option in (*FLAGS, WIDTH) if option not in known]
    long = [f"-{word.partition('=')[0]}" for word in words if word.startswith(name) and not word.startswith("--")]
    near = [word for word in long if word in known] or difflib.get_close_matches(name, known, 2, 0.7)
    return f"there is no option {quoted(name)}", "", f"did you mean {' or '.join(near)}?" if near else ""


def _option_usage(error: Any, words: Sequence[str]) -> Description:
    takes_none = "does not take a value" in error.format_message()
    return f"{error.option_name} {'takes no value' if takes_none else 'needs a value'}", "", ""


def _other(error: Any, words: Sequence[str]) -> Description:
    text = error.format_message().rstrip(".")
    if match := re.fullmatch(r"got unexpected extra arguments?(?:\(s\))? \((.*)\)", text, re.I | re.S):
        return _unexpected(match[1], error)
    if match := re.match(r"no such command '(.*?)'", text, re.I):
        known = list(getattr(getattr(error.ctx, "command", None), "commands", {}))
        near = difflib.get_close_matches(match[1], known, 2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"commands: {', '.join(known)}"
        return f"there is no command {quoted(match[1])!r}", "", hint
    return text[:1].lower() + text[1:], "", ""


def _unexpected(extra: str, error: Any) -> Description:
    """extra: the arguments that are too many, separated by spaces; an argument may be empty or contain spaces."""
    message = f"unexpected argument: {quoted(extra)}" if extra.strip() else "unexpected argument, which is empty"
    options = [option for param in error.ctx.command.params for option in param.opts] if error.ctx else []
    if "=" in extra and "--set" in options:
        return message, "", f"write --set {quoted(extra)}"
    return message, "", _usage(error)


DESCRIPTIONS: dict[str, Callable[[Any, Sequence[str]], Description]] = {
    "MissingParameter": _missing,
    "BadParameter": _bad_value,
    "NoSuchOption": _no_option,
    "BadOptionUsage": _option_usage,
}
"""Class of an error, by name -> function that describes it."""
