"""Check that an evaluation does not use the validation text before scoring: in its build or its warm-up."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bitgolf.score.audit.findings import AuditFinding, error, warning
from bitgolf.score.audit.harness import AuditHarness
from bitgolf.score.audit.runner import EvaluationRun


def check_determinism(harness: AuditHarness, claimed: EvaluationRun, again: EvaluationRun) -> Iterator[AuditFinding]:
    """Runs on the same text must give equal bits, also the one that is asked for distributions (`again`).

    If the first run of all differs from the baseline, it is repeated: an evaluation that cheats only once is found.
    """
    tolerance = harness.budget.tolerance
    found = max_difference(harness.baseline, again, tolerance)
    if not found and max_difference(harness.baseline, claimed, tolerance):
        text = harness.text.tokens
        found = max_difference(claimed, harness.run(text, build=text, warm_up=text), tolerance)
    if found:
        yield error("not-deterministic", f"by up to {found:.2g} bits per target", bits=found)


def check_contamination(harness: AuditHarness, claimed: EvaluationRun) -> Iterator[AuditFinding]:
    """Compare a run that sees the validation text in every phase with runs that see a decoy text before scoring."""
    text, baseline, tolerance = harness.text.tokens, harness.baseline, harness.budget.tolerance
    difference = max_difference(baseline, claimed, tolerance)
    build = max_difference(baseline, harness.run(text, build=text), tolerance) if difference else 0.0
    warm_up = max_difference(baseline, harness.run(text, warm_up=text), tolerance) if difference else 0.0
    gain = bits_saved(baseline, claimed)
    if build or (difference and not warm_up):
        yield error("calibrated-on-validation", f"{gain:.3g} bits saved", bits=gain)
    if warm_up:
        yield error("warmed-up-on-validation", f"{gain:.3g} bits saved", bits=gain)
    early = {read.phase for read in claimed.reads if read.phase != "scoring" and read.stop > read.start}
    if early and not difference:
        yield warning("reads-before-scoring", ", ".join(sorted(early)))


def max_difference(one: EvaluationRun, other: EvaluationRun, exact: float) -> float:
    """Maximum difference of a target's bits, 0 if at most `exact`; infinite if other targets were scored."""
    if not np.array_equal(one.claim.positions, other.claim.positions):
        return np.inf
    most = float(np.abs(one.claim.bits - other.claim.bits).max())
    return most if most > exact else 0.0


def bits_saved(before: EvaluationRun, after: EvaluationRun) -> float:
    """Total bits of one run minus those of the other."""
    return float(before.claim.bits.sum() - after.claim.bits.sum())
