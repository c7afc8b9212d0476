"""Measures of runs by name: facts of their entries, values of their results, and settings of their recipes."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bitgolf.errors import BitgolfError, UsageError
from bitgolf.files import read_json
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.store.entry import RunEntry
from bitgolf.submission.imported import IMPORTED_FILE

Value = str | int | float | bool | None

_INDEX = re.compile("[0-9]{1,9}")
_CONDITION = re.compile(r"\s*([^\s<>=!]+)\s*(<=|>=|!=|=|<|>)\s*([^<>=!\s].*?)\s*")


class RunMeasures:
    """A run of which measures are read. root: folder of the store. Files are read when a measure needs them.

    A measure is `name`, `state`, `bpb` (the best score), `time` (of the last change), another field of `RunEntry`, a
    path into the result (`score.json`, or `imported.json` of an imported run) such as `bytes.self_contained`, or the
    path of a setting of the recipe such as `train.steps`. What is found first in this order counts.
    """

    def __init__(self, entry: RunEntry, root: Path) -> None:
        self.entry, self.folder = entry, root / entry.folder
        self._documents: list[Any] | None = None

    def value(self, measure: str) -> Value:
        """The value of a measure; None if the run has none."""
        own = {
            "name": self.entry.folder,
            "bpb": self.entry.best_bpb,
            "time": self.entry.changed,
            "state": shown_state(self.entry),
        }
        if measure in own:
            return own[measure]
        for document in (msgspec.structs.asdict(self.entry), *self._files()):
            found, value = _at(document, measure.split("."))
            if found:
                return _plain(value)
        return None

    def _files(self) -> list[Any]:
        if self._documents is None:
            files = RunFiles(self.folder)
            paths = (files.result, self.folder / IMPORTED_FILE, files.recipe)
            self._documents = [_read(path) for path in paths if path.exists()]
        return self._documents


def shown_state(entry: RunEntry) -> str:
    """How far a run is, in words."""
    if entry.kind == "imported" or entry.state.startswith(("damaged", "stopped")):
        return entry.state
    return "done" if entry.state == "report" else f"up to {entry.state}" if entry.state else "not started"


def check_measures(names: Sequence[str], runs: Sequence[RunMeasures], where: str) -> None:
    """Raise `UsageError` for a name that no run has a value of. where: the option that named it."""
    for name in names:
        if runs and all(run.value(name) is None for run in runs):
            known = ["name", "state", "time", *RunEntry.__struct_fields__]
            near = difflib.get_close_matches(name, known, 2)
            hint = (
                f"did you mean {' or '.join(near)}?" if near else "a fact of `runs --json`, or a path into score.json"
            )
            raise UsageError(f"no run has the measure {name!r}", where=where, hint=hint)


class Condition(NamedTuple):
    """A condition on a measure, such as `bpb<1.2` or `recipe=quick*`."""

    measure: str
    operator: str
    value: str

    def holds(self, run: RunMeasures) -> bool:
        """Whether a run has the measure and fulfils the condition. Texts are compared as patterns."""
        found = run.value(self.measure)
        if found is None:
            return False
        if isinstance(found, bool) or (number := _number(self.value)) is None or isinstance(found, str):
            same = fnmatchcase(_text(found), self.value)
            return {"=": same, "!=": not same}.get(self.operator, False)
        return {
            "<": found < number,
            "<=": found <= number,
            ">": found > number,
            ">=": found >= number,
            "=": found == number,
            "!=": found != number,
        }[self.operator]


def parse_condition(text: str) -> Condition:
    """Return the condition that a text states. Raises `UsageError` for another text, and for an order of words."""
    match = _CONDITION.fullmatch(text)
    if not match:
        raise UsageError(f"not a condition: {text!r}", where="--where", hint='for example "bpb<1.2" or "recipe=quick*"')
    if match[2] not in ("=", "!=") and _number(match[3]) is None:
        hint = "texts are compared by = and != only"
        raise UsageError(f"{match[3]!r} is not a number", where=f"--where {text!r}", hint=hint)
    return Condition(*match.groups())


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read(path: Path) -> Any:
    """The JSON value of a file, None if it is damaged."""
    try:
        return read_json(path)
    except (BitgolfError, OSError):
        return None


def _at(document: Any, keys: Sequence[str]) -> tuple[bool, Any]:
    """(whether a JSON value has a path, the value there). A key of a list is an index."""
    for key in keys:
        if isinstance(document, dict) and key in document:
            document = document[key]
        elif isinstance(document, list) and _INDEX.fullmatch(key) and int(key) < len(document):
            document = document[int(key)]
        else:
            return False, None
    return document is not None, document


def _plain(value: Any) -> Value:
    """A value for a cell: a part as its class name, and other structures as JSON."""
    if isinstance(value, dict) and isinstance(value.get("part"), str):
        return value["part"]
    return value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)
