"""Run all audits of an evaluation: `audit_evaluation`. The rules are described in docs/scoring.md."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import NamedTuple

from bitgolf.errors import UsageError
from bitgolf.score.audit.budget import AuditBudget, CheckCoverage
from bitgolf.score.audit.causality import check_causality
from bitgolf.score.audit.contamination import check_contamination, check_determinism
from bitgolf.score.audit.coverage import check_coverage
from bitgolf.score.audit.denominator import check_denominator
from bitgolf.score.audit.evaluation import Evaluation
from bitgolf.score.audit.findings import AuditFinding, error, ranked
from bitgolf.score.audit.harness import AuditHarness
from bitgolf.score.audit.isolation import check_isolation, check_length_leak
from bitgolf.score.audit.losslessness import check_losslessness
from bitgolf.score.audit.normalization import check_normalization
from bitgolf.score.audit.plan import AuditPlan, plan_audit
from bitgolf.score.audit.runner import AuditStopped, EvaluationRunner, LocalRunner
from bitgolf.score.audit.stored_text import check_stored_text

DEFAULT_BUDGET = AuditBudget()


class AuditReport(NamedTuple):
    """The findings of an audit, the most fundamental first.

    claimed: bits per byte as the evaluation reports them, nan if it did not complete. runs: runs of the evaluation.
    checks: how thorough each check was that was completed.
    """

    findings: list[AuditFinding]
    claimed: float
    runs: int
    checks: list[CheckCoverage] = []

    @property
    def verdict(self) -> str:
        """The rules that reject the evaluation, separated by commas, or "passes" if there is none."""
        return ", ".join(finding.rule for finding in self.findings if finding.severity == "error") or "passes"


class AuditObserver:
    """Receives the progress of an audit; this one ignores it."""

    def planned(self, plan: AuditPlan, seconds: float) -> None:
        """plan: the checks with their runs. seconds: of one run. Called when three runs are done."""

    def ran(self, runs: int) -> None:
        """Called after each run, with the number of runs so far."""

    def checking(self, check: str) -> None:
        """Called before each check."""


def audit_evaluation(
    evaluation: Callable[[], Evaluation] | EvaluationRunner,
    documents: Sequence[bytes],
    training: Sequence[bytes],
    *,
    seed: int = 0,
    budget: AuditBudget = DEFAULT_BUDGET,
    artifact_bytes: int | None = None,
    observer: AuditObserver | None = None,
) -> AuditReport:
    """Audit an evaluation by its behavior on altered texts.

    evaluation: a function that creates it, called anew for each run, in a thread of this process: if it ends the
    process, the audit ends too. Or a runner, such as `process_runner.ProcessRunner`, which is closed at the end.
    documents: raw, at least three. training: raw documents that it may train on. seed: of all random choices.
    artifact_bytes: size of what is submitted, set against the bytes of text that seem to be stored.
    Reads that bypass the `DataView` are not detected: run the audit where the validation files are not available.
    Raises `UsageError` if there are fewer than three documents, an empty one, or no training text.
    """
    if len(documents) < 3 or not training or not all(documents):
        cause = (
            "an audit needs at least three documents, none of them empty, and a training document; got"
            f" {len(documents)} documents, {documents.count(b'')} of them empty, and {len(training)} training documents"
        )
        raise UsageError(cause, where="audit")
    _ = budget.questions, budget.splits  # refuses an impossible confidence before anything runs
    runner = LocalRunner(evaluation, budget.timeout) if callable(evaluation) else evaluation
    audit = _Audit(observer or AuditObserver())
    with closing(runner):
        try:
            audit.run(runner, documents, training, seed, budget, artifact_bytes)
        except AuditStopped as stopped:
            audit.findings.append(stopped.finding)
    return AuditReport(ranked(audit.findings), audit.claimed, audit.runs, audit.checks)


class _Audit:
    """The state of an audit: what it found so far."""

    def __init__(self, observer: AuditObserver) -> None:
        self.observer, self.claimed, self.harness = observer, float("nan"), None
        self.findings = list[AuditFinding]()
        self.checks = list[CheckCoverage]()

    @property
    def runs(self) -> int:
        return self.harness.runs if self.harness else 0

    def run(
        self,
        runner: EvaluationRunner,
        documents: Sequence[bytes],
        training: Sequence[bytes],
        seed: int,
        budget: AuditBudget,
        artifact_bytes: int | None,
    ) -> None:
        """All checks. One whose result would follow from the finding of an earlier one is left out."""
        self.harness = harness = AuditHarness(runner, documents, training, seed, budget, self.observer.ran)
        text = harness.text.tokens
        claimed = harness.run(text, build=text, warm_up=text)
        if not claimed.claim.bytes:
            raise AuditStopped(error("evaluation-error", "the text has 0 bytes in its score"))
        self.claimed = claimed.claim.bpb
        asked = harness.draw(harness.charges.order, budget.questions)
        started = time.perf_counter()  # the runs before also load and compile
        again = harness.run(text, distribution_targets=asked.tolist())
        seconds = time.perf_counter() - started
        plan = plan_audit(harness, asked, again.claim)
        self.observer.planned(plan, seconds)
        if self.check(plan, "determinism", check_determinism(harness, claimed, again)):
            return
        self.check(plan, "coverage", check_coverage(harness, claimed))
        self.check(plan, "tokenizer", check_losslessness(harness))
        self.check(plan, "bytes", check_denominator(harness, claimed))
        self.check(plan, "phases", check_contamination(harness, claimed))
        sums = check_normalization(harness, asked, again.claim)
        _ = (  # each only if the ones before it find nothing
            self.check(plan, "isolation", check_isolation(harness))
            or self.check(plan, "causality", check_causality(harness))
            or self.check(plan, "lengths", check_length_leak(harness))
            or self.check(plan, "sums", sums)
            or self.check(plan, "stored text", check_stored_text(harness, artifact_bytes))
        )

    def check(self, plan: AuditPlan, name: str, found: Iterable[AuditFinding]) -> bool:
        """Execute a check. Returns whether it rejects the evaluation."""
        self.observer.checking(name)
        before, findings = self.runs, list(found)
        self.findings += findings
        coverage = plan.coverage(name, self.runs - before)
        if coverage:
            self.checks.append(coverage)
        return any(finding.severity == "error" for finding in findings)
