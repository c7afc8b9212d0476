"""Rules on the files of a record folder: what must be there, and whether it can be read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from bitgolf.submission.finding import Found, Record, RecordRule
from bitgolf.submission.folder import CLAIMS
from bitgolf.submission.source import Source

PLACES = re.compile(
    r"(?:/(?:root|home|Users|workspace|mnt|data|content|kaggle|scratch|tmp|opt|runpod)/|[A-Za-z]:\\\\?)[\w.-]"
)
"""Beginnings of paths that exist on one machine only."""
SHARED_PLACES = ("/tmp/", "/opt/")
STANDARD_PYTHON = (3, 12)
"""The version that the challenge's image has, where a folder states none."""


def missing_claims(record: Record) -> Found:
    if record.claims is None:
        yield "", 0, f"{CLAIMS} is missing."


def unreadable_claims(record: Record) -> Found:
    if record.claims and record.claims.error:
        yield CLAIMS, 1, f"It is not a JSON object: {record.claims.error}."


def missing_script(record: Record) -> Found:
    if not record.folder.scripts:
        yield "", 0, "There is no Python file beside submission.json, so nothing can be run again."


def missing_readme(record: Record) -> Found:
    if not any(name.name.lower().startswith("readme") for name in record.folder.files):
        yield "", 0, "README.md is missing."


def missing_logs(record: Record) -> Found:
    if not record.logs:
        yield "", 0, "No file has the scores of a run, so no claim can be compared with a log."


def does_not_parse(record: Record) -> Found:
    for script in record.folder.scripts:
        if script.error and not _is_newer_syntax(script):
            yield script.name, script.error.lineno or 0, f"Python cannot parse it: {script.error.msg}."


def needs_newer_python(record: Record) -> Found:
    stated = _stated_python(record)
    for script in record.folder.scripts:
        if stated < STANDARD_PYTHON and (line := _first_newer_syntax(script)):
            version = ".".join(map(str, stated))
            yield (
                script.name,
                line,
                f"An f-string repeats its own quotes, which needs Python 3.12; the folder states {version}.",
            )


def hard_coded_path(record: Record) -> Found:
    for script in record.folder.code:
        for node in _path_texts(script):
            yield script.name, node.lineno, f"The path {node.value!r} exists on one machine only."


def _is_newer_syntax(script: Source) -> bool:
    """Whether an older Python than 3.12 rejects the script for an f-string that 3.12 accepts."""
    return "f-string" in str(script.error and script.error.msg)


def _first_newer_syntax(script: Source) -> int:
    """Return the line of the first f-string that repeats its quotes inside itself (PEP 701), 0 if there is none."""
    if script.error:
        return (script.error.lineno or 0) if _is_newer_syntax(script) else 0
    lines = script.text.splitlines()
    for node in script.all(ast.JoinedStr):
        if node.lineno == node.end_lineno:
            literal = lines[node.lineno - 1].encode()[node.col_offset : node.end_col_offset].decode(errors="replace")
            opening = re.match(r"[fFrRbBuU]*(\"\"\"|'''|\"|')", literal)
            if opening and opening[1] in literal[opening.end() : -len(opening[1])].replace("\\" + opening[1], ""):
                return node.lineno
    return 0


def _stated_python(record: Record) -> tuple[int, int]:
    """Return the version of Python that the folder's claims or README state, else the challenge's."""
    texts = [record.claims.text] if record.claims else []
    texts += [record.folder.read(name) for name in record.folder.files if name.name.lower().startswith("readme")]
    found = [match for text in texts for match in re.findall(r"[Pp]ython[\s_\"':a-z=>]{0,14}3\.(\d{1,2})\b", text)]
    return (3, min(map(int, found))) if found else STANDARD_PYTHON


def _path_texts(script: Source) -> Iterator[ast.Constant]:
    """Yield the texts of a script that are paths of one machine: defaults of options, and arguments of calls."""
    seen = set[int]()
    for name, call in script.calls:
        if name.split(".")[-1] in ("print", "log", "log0", "append", "startswith", "replace"):
            continue
        for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
            if isinstance(argument, ast.Constant) and _is_local_path(argument.value) and id(argument) not in seen:
                seen.add(id(argument))
                yield argument
    for node in (*script.all(ast.Assign), *script.all(ast.AnnAssign)):
        value = node.value
        if isinstance(value, ast.Constant) and _is_local_path(value.value):
            yield value


def _is_local_path(value: object) -> bool:
    return (
        isinstance(value, str)
        and bool(PLACES.match(value))
        and not value.startswith(SHARED_PLACES)
        and " " not in value
    )


RULES = (
    RecordRule("missing-claims", "error", missing_claims),
    RecordRule("unreadable-claims", "error", unreadable_claims),
    RecordRule("missing-script", "error", missing_script),
    RecordRule("missing-readme", "warning", missing_readme),
    RecordRule("missing-logs", "warning", missing_logs),
    RecordRule("does-not-parse", "error", does_not_parse),
    RecordRule("needs-newer-python", "warning", needs_newer_python),
    RecordRule("hard-coded-path", "warning", hard_coded_path),
)
