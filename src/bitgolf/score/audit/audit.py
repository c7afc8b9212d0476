"""Run all audits of an evaluation: `audit_evaluation`. The rules are described in docs/scoring.md."""

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
    """The findings of an audit, the most fundamental first.

    claimed: bits per byte as the evaluation reports them, nan if it did not complete. runs: runs of the evaluation.
    """

    findings: list[AuditFinding]
    claimed: float
    runs: int

    @property
    def verdict(self) -> str:
        """The first rule that rejects the evaluation, or "passes" if there is none."""
        return self.findings[0].rule if self.findings and self.findings[0].severity == "error" else "passes"


def audit_evaluation(
    make_evaluation: Callable[[], Evaluation],
    documents: Sequence[bytes],
    training: Sequence[bytes],
    *,
    seed: int = 0,
    budget: AuditBudget = DEFAULT_BUDGET,
) -> AuditReport:
    """Audit an evaluation by its behavior on altered texts.

    make_evaluation: creates the evaluation anew for each run. documents: raw, at least three; those of the second half
    should be longer than its windows. training: raw documents that it may train on. seed: of all random choices.
    Reads that bypass the `DataView` are not detected: run the audit where the validation files are not available.
    The evaluation runs in a thread of this process: if it ends the process, the audit ends too.
    Raises `UsageError` if there are fewer than three documents, an empty one, or no training text.
    """
    if len(documents) < 3 or not training or not all(documents):
        cause = (
            "an audit needs at least three documents, none of them empty, and a training document; got"
            f" {len(documents)} documents, {documents.count(b'')} of them empty, and {len(training)} training documents"
        )
        raise UsageError(cause, where="audit")
    findings: list[AuditFinding] = []
    harness, claimed = None, float("nan")
    try:
        harness = AuditHarness(make_evaluation, documents, training, seed, budget)
        text = harness.text.tokens
        claim = harness.run(text, build=text, warm_up=text)
        claimed = claim.claim.bpb
        findings += check_determinism(harness)
        if not findings:
            for rule in (check_coverage, check_tokenizer, check_denominator, check_contamination):
                findings += rule(harness, claim)
            for rule in (check_isolation, check_causality, check_length_leak):
                findings += rule(harness)
            if all(finding.severity == "warning" for finding in findings):  # the most expensive check comes last
                findings += check_normalization(harness)
    except AuditStopped as stopped:
        findings.append(stopped.finding)
    return AuditReport(ranked(findings), claimed, harness.runs if harness else 0)
