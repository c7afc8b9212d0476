"""The result of `bitgolf audit` as text."""

from __future__ import annotations

from collections.abc import Iterator

from bitgolf.commands.audit import AuditedEvaluation, AuditResult
from bitgolf.commands.tables import format_number, table
from bitgolf.report.progress import duration

LIMITS = {"network": "no network", "files": "no view of the text's files", "memory": "limited memory"}


def audit_table(result: AuditResult) -> str:
    """For each evaluation its verdict, its findings, and how thorough the checks were."""
    text = f"{result.documents} documents, {result.bytes:,} bytes"
    aim = f"{result.confidence:.0%} confidence at {result.share:.0%} of the text"
    return "\n\n".join(["\n".join(_lines(audit)) for audit in result.audits] + [f"{text}; {aim}"])


def _lines(audit: AuditedEvaluation) -> Iterator[str]:
    spent = f"{audit.runs:,} runs, {duration(audit.seconds)}"
    yield f"{audit.name}: {audit.verdict} ({format_number(audit.bpb, '.4f')} bpb; {spent})"
    for finding in audit.findings:
        yield f"{finding.severity}: {finding.rule}: {finding.message}"
    if audit.missing_limits is not None:
        kept = [words for name, words in LIMITS.items() if name not in audit.missing_limits]
        yield f"its process had: {', '.join(kept) or 'no limits but time'}"
        for name, reason in audit.missing_limits.items():
            yield f"not limited: {name}: {reason}"
    rows = [
        (c.check, c.units if c.asked else "all of the text", format_number(c.asked or None), format_number(c.runs), f"{c.escape:.2%}" if c.asked else "-")
        for c in audit.checks
    ]  # fmt: skip
    if rows:
        columns = ("check", "of", "questions", "runs", "missed at most")
        yield table("", columns, rows, text_columns=2)
