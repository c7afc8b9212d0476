"""What happened before scoring: an artifact that is built, or warmed up, on the text that it is scored on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bitgolf.score.audit.findings import AuditFinding, error, warning
from bitgolf.score.audit.harness import AuditHarness, EvaluationRun


def check_determinism(exam: AuditHarness) -> Iterator[AuditFinding]:
    """The same run twice."""
    if found := max_difference(exam.baseline, exam.run(exam.text.tokens), exam.budget.tolerance):
        yield error("not-deterministic", f"by up to {found:.2g} bits a target", bits=found)


def check_contamination(exam: AuditHarness, claimed: EvaluationRun) -> Iterator[AuditFinding]:
    """The claim was made with the text in view throughout; it must not change when that is another text until scoring."""
    text = exam.text.tokens
    moved = max_difference(exam.baseline, claimed, exam.budget.tolerance)
    build = max_difference(exam.baseline, exam.run(text, build=text), exam.budget.tolerance) if moved else 0.0
    warm_up = max_difference(exam.baseline, exam.run(text, warm_up=text), exam.budget.tolerance) if moved else 0.0
    gain = bits_saved(exam.baseline, claimed)
    if build or (moved and not warm_up):
        yield error("calibrated-on-validation", f"{gain:.3g} bits saved", bits=gain)
    if warm_up:
        yield error("warmed-up-on-validation", f"{gain:.3g} bits saved", bits=gain)
    early = {read.phase for read in claimed.reads if read.phase != "scoring" and read.stop > read.start}
    if early and not moved:
        yield warning("reads-before-scoring", ", ".join(sorted(early)))


def max_difference(one: EvaluationRun, other: EvaluationRun, exact: float) -> float:
    """The most that a charge differs, bits, if that is more than `exact`; infinite where other targets were charged."""
    if not np.array_equal(one.claim.positions, other.claim.positions):
        return np.inf
    most = float(np.abs(one.claim.bits - other.claim.bits).max())
    return most if most > exact else 0.0


def bits_saved(before: EvaluationRun, after: EvaluationRun) -> float:
    return float(before.claim.bits.sum() - after.claim.bits.sum())
