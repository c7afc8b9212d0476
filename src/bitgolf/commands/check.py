"""The command `check`: rules on record folders, which are read and never run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bitgolf.commands.tables import table
from bitgolf.report.findings import Severity
from bitgolf.report.progress import ShowProgress, WorkProgress
from bitgolf.runtime.ordered_map import available_cores, local_map
from bitgolf.submission.check import SEVERITIES, CheckedRecord, check_records
from bitgolf.submission.finding import RecordFinding
from bitgolf.submission.folder import record_folders
from bitgolf.submission.rules import RULES

LEAST_FOLDERS = 8
"""Folders from which on several processes are started, which takes longer than reading a few."""


class RuleCount(msgspec.Struct, frozen=True):
    """How many findings a rule has, and in how many folders."""

    rule: str
    severity: Severity
    folders: int
    findings: int


class RecordsCheck(msgspec.Struct, frozen=True):
    """The keys of `check --json`. rules: those with findings, errors first. passes: whether no finding is an error."""

    records: list[CheckedRecord]
    rules: list[RuleCount]
    passes: bool


def check_folders(paths: Sequence[Path], processes: int, show: ShowProgress) -> RecordsCheck:
    """Check the record folders at and below `paths`. processes: 0 for one on each core."""
    folders = list(record_folders(paths))
    workers = processes or (available_cores() if len(folders) >= LEAST_FOLDERS else 1)
    progress, records = WorkProgress(show, "check", "folders"), list[CheckedRecord]()
    with local_map(min(workers, len(folders))) as cores:
        for record in check_records(folders, cores):
            records.append(record)
            progress.update(len(records), len(folders))
    return RecordsCheck(records, _counts(records), all(record.passes for record in records))


def _counts(records: Sequence[CheckedRecord]) -> list[RuleCount]:
    folders = Counter(rule for record in records for rule in {finding.rule for finding in record.findings})
    findings = Counter(finding.rule for record in records for finding in record.findings)
    rules = sorted((rule for rule in RULES if folders[rule.name]), key=lambda rule: SEVERITIES.index(rule.severity))
    return [RuleCount(rule.name, rule.severity, folders[rule.name], findings[rule.name]) for rule in rules]


def check_lines(result: RecordsCheck, least: Severity | None) -> str:
    """Return the result as text. least: findings of less severity are counted only; None: note for one folder, else error."""
    chosen = least or ("note" if len(result.records) == 1 else "error")
    shown = SEVERITIES[: SEVERITIES.index(chosen) + 1]
    lines = [line for record in result.records for line in _record_lines(record, shown)]
    if len(result.records) > 1 and result.rules:
        rows = [(rule.rule, rule.severity, f"{rule.folders:,}", f"{rule.findings:,}") for rule in result.rules]
        title = f"Findings in {len(result.records):,} folders"
        lines += ["", table(title, ("rule", "severity", "folders", "findings"), rows, text_columns=2)]
    return "\n".join(lines)


def _record_lines(record: CheckedRecord, shown: Sequence[Severity]) -> Iterator[str]:
    counts = Counter(finding.severity for finding in record.findings)
    said = ", ".join(
        f"{counts[severity]} {severity}{'s' * (counts[severity] > 1)}" for severity in SEVERITIES if counts[severity]
    )
    yield f"{record.folder}: {said or 'no findings'}"
    yield from (f"  {_finding_line(f)}" for f in record.findings if f.severity in shown)


def _finding_line(finding: RecordFinding) -> str:
    place = f"{finding.path}:{finding.line}: " if finding.line else f"{finding.path}: " * bool(finding.path)
    return f"{finding.severity} {finding.rule}: {place}{finding.evidence}"
