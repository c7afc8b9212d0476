"""What a rule finds in a record folder, and what rules look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import msgspec

from bitgolf.report.findings import Severity
from bitgolf.submission.claims import Claims
from bitgolf.submission.folder import CLAIMS, RecordFolder
from bitgolf.submission.log_figures import LogFigures
from bitgolf.submission.support import supporting_logs


class RecordFinding(msgspec.Struct, frozen=True):
    """A finding in a record folder.

    rule: its name in docs/rules.md. severity: error, warning or note. path: of the file in the folder, "" for the
    folder itself. line: from 1, 0 for the file as a whole. evidence: one sentence with what was found.
    """

    rule: str
    severity: Severity
    path: str
    line: int
    evidence: str


class Record:
    """A record folder as rules see it: the folder, its claims, and the logs of runs."""

    def __init__(self, folder: RecordFolder) -> None:
        self.folder = folder

    @cached_property
    def claims(self) -> Claims | None:
        """The content of submission.json, None if there is none."""
        path = next((name for name in self.folder.files if str(name) == CLAIMS), None)
        return Claims(self.folder.read(path)) if path else None

    @cached_property
    def logs(self) -> list[LogFigures]:
        """The logs that have scores of whole evaluations."""
        read = [LogFigures(str(name), self.folder.read(name)) for name in self.folder.log_files]
        return [log for log in read if log.is_run]

    @cached_property
    def claimed_logs(self) -> list[LogFigures]:
        """The logs behind the claimed scores, of the folder and of each seed; none if no log supports a claim.

        Folders hold logs of other experiments too, to which limits do not apply.
        """
        if self.claims is None:
            return []
        claims = (self.claims.bpb, *self.claims.bpb_by_seed.values())
        behind = [log for claim in claims if claim for log in supporting_logs(claim, self.logs)]
        return [log for log in self.logs if log in behind]


Found = Iterator[tuple[str, int, str]]
"""Path, line and evidence of each finding of a rule."""


class RecordRule(NamedTuple):
    """A rule. name: kebab case. severity: of its findings. check: yields path, line and evidence of each."""

    name: str
    severity: Severity
    check: Callable[[Record], Found]

    def findings(self, record: Record) -> Iterator[RecordFinding]:
        """Apply the rule to a record."""
        for path, line, evidence in self.check(record):
            yield RecordFinding(self.name, self.severity, path, line, evidence)
