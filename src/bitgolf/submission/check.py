"""Apply all rules to record folders, on several cores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bitgolf.report.findings import Severity
from bitgolf.runtime.ordered_map import OrderedMap
from bitgolf.submission.finding import Record, RecordFinding
from bitgolf.submission.folder import RecordFolder
from bitgolf.submission.rules import RULES

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


class CheckedRecord(msgspec.Struct, frozen=True):
    """The findings in one record folder, errors first. folder: as it was named or found."""

    folder: str
    findings: list[RecordFinding]

    @property
    def passes(self) -> bool:
        """Whether no finding is an error."""
        return not any(finding.severity == "error" for finding in self.findings)


def check_record(folder: Path) -> CheckedRecord:
    """Apply every rule to a record folder. Nothing in it is executed."""
    record = Record(RecordFolder(folder))
    findings = [finding for rule in RULES for finding in rule.findings(record)]
    return CheckedRecord(str(folder), sorted(findings, key=_order))


def _order(finding: RecordFinding) -> tuple[int, str, str, int]:
    return SEVERITIES.index(finding.severity), finding.rule, finding.path, finding.line


def check_records(folders: Sequence[Path], workers: OrderedMap) -> Iterator[CheckedRecord]:
    """Yield the findings of each folder, in order."""
    return workers.map(check_record, folders)
