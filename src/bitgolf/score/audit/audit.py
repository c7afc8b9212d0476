"""All audits of an entry: `audit_evaluation`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bitgolf.errors import UsageError
from bitgolf.score.audit.causality import check_causality
from bitgolf.score.audit.contamination import check_contamination, check_determinism
from bitgolf.score.audit.coverage import check_coverage, check_denominator, check_tokenizer
from bitgolf.score.audit.evaluation import Evaluation
from bitgolf.score.audit.findings import AuditFinding, ranked
from bitgolf.score.audit.harness import AuditBudget, AuditHarness, AuditStopped
from bitgolf.score.audit.isolation import check_isolation, check_length_leak
from bitgolf.score.audit.normalization import check_normalization

DEFAULT_BUDGET = AuditBudget()


class AuditReport(NamedTuple):
    """claimed: bits per byte by the entry's own count, nan where it did not come so far; runs: of the entry."""

    findings: list[AuditFinding]
    claimed: float
    runs: int

    @property
    def verdict(self) -> str:
        """The rule that rejects the entry, the cause where several do; "passes" where none does."""
        return self.findings[0].rule if self.findings and self.findings[0].severity == "error" else "passes"


def audit_evaluation(
    make_evaluation: Callable[[], Evaluation],
    documents: Sequence[bytes],
    training: Sequence[bytes],
    *,
    seed: int = 0,
    budget: AuditBudget = DEFAULT_BUDGET,
) -> AuditReport:
    """Examine an entry, which `make_evaluation` makes anew for each run, by what it does with text.

    documents: raw, at least three; those of the later half should be long beside the entry's windows. training: raw documents
    that it may train on. The same seed asks the same questions. What the entry reads by other ways than its `DataView` is
    not seen: run it where the validation files are not. A process that it kills is the caller's.
    """
    if len(documents) < 3 or not training or not all(documents):
        raise UsageError("an audit needs three documents or more, training text, and no empty document", where="audit")
    findings: list[AuditFinding] = []
    exam, claimed = None, float("nan")
    try:
        exam = AuditHarness(make_evaluation, documents, training, seed, budget)
        text = exam.text.tokens
        claim = exam.run(text, build=text, warm_up=text)
        claimed = claim.claim.bpb
        findings += check_determinism(exam)
        if not findings:
            for rule in (check_coverage, check_tokenizer, check_denominator, check_contamination):
                findings += rule(exam, claim)
            for rule in (check_isolation, check_causality, check_length_leak):
                findings += rule(exam)
            if all(finding.severity == "warning" for finding in findings):  # the costly question comes last
                findings += check_normalization(exam)
    except AuditStopped as stopped:
        findings.append(stopped.finding)
    return AuditReport(ranked(findings), claimed, exam.runs if exam else 0)
