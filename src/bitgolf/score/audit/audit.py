"""All audits of an entry: `audit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bitgolf.errors import UsageError
from bitgolf.score.audit.causality import causal
from bitgolf.score.audit.contamination import phases, repeatable
from bitgolf.score.audit.coverage import coverage, denominator, tokenizer
from bitgolf.score.audit.evaluation import Entry
from bitgolf.score.audit.findings import Finding, ranked
from bitgolf.score.audit.harness import Depth, Exam, Stopped
from bitgolf.score.audit.isolation import isolation, lengths
from bitgolf.score.audit.normalization import sums

ORDINARY = Depth()


class Audit(NamedTuple):
    """claimed: bits per byte by the entry's own count, nan where it did not come so far; runs: of the entry."""

    findings: list[Finding]
    claimed: float
    runs: int

    @property
    def verdict(self) -> str:
        """The rule that rejects the entry, the cause where several do; "passes" where none does."""
        return self.findings[0].rule if self.findings and self.findings[0].severity == "error" else "passes"


def audit(
    make: Callable[[], Entry],
    documents: Sequence[bytes],
    training: Sequence[bytes],
    *,
    seed: int = 0,
    depth: Depth = ORDINARY,
) -> Audit:
    """Examine an entry, which `make` makes anew for each run, by what it does with text.

    documents: raw, at least three; those of the later half should be long beside the entry's windows. training: raw documents
    that it may train on. The same seed asks the same questions. What the entry reads by other ways than its `Sight` is
    not seen: run it where the validation files are not. A process that it kills is the caller's.
    """
    if len(documents) < 3 or not training or not all(documents):
        raise UsageError("an audit needs three documents or more, training text, and no empty document", place="audit")
    findings: list[Finding] = []
    exam, claimed = None, float("nan")
    try:
        exam = Exam(make, documents, training, seed, depth)
        text = exam.text.tokens
        claim = exam.run(text, build=text, warm_up=text)
        claimed = claim.claim.bpb
        findings += repeatable(exam)
        if not findings:
            for rule in (coverage, tokenizer, denominator, phases):
                findings += rule(exam, claim)
            for rule in (isolation, causal, lengths):
                findings += rule(exam)
            if all(finding.severity == "warning" for finding in findings):  # the costly question comes last
                findings += sums(exam)
    except Stopped as stopped:
        findings.append(stopped.finding)
    return Audit(ranked(findings), claimed, exam.runs if exam else 0)
