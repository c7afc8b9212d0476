"""Rules on options: one that a script defines and never reads has no effect."""

from __future__ import annotations

import ast

from bitgolf.submission.finding import Found, Record, RecordRule
from bitgolf.submission.source import Source, dotted

HANDED_ON = ("vars", "asdict", "dataclasses.asdict", "namedtuple")


def unread_option(record: Record) -> Found:
    for script in record.folder.code:
        if _reads_by_computed_name(script):
            continue
        for option in script.options:
            quoted = script.texts[option.name] > (option.name == option.variable)  # read by its name as a text
            if option.name not in script.read_names and not quoted:
                yield script.name, option.line, f"The option {option.variable} sets {option.name}, which nothing reads."


def _reads_by_computed_name(script: Source) -> bool:
    """Whether the script reads attributes whose name is computed, or hands all of them on as arguments."""
    for name, call in script.calls:
        if name == "getattr" and len(call.args) >= 2 and not isinstance(call.args[1], ast.Constant):
            return True
        for keyword in call.keywords:
            if keyword.arg is None and isinstance(keyword.value, ast.Call) and dotted(keyword.value.func) in HANDED_ON:
                return True
            if keyword.arg is None and dotted(keyword.value).endswith("__dict__"):
                return True
    return False


RULES = (RecordRule("unread-option", "warning", unread_option),)
