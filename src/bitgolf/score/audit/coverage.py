"""Check that every target is scored exactly once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bitgolf.score.audit.evaluation import Ints
from bitgolf.score.audit.findings import AuditFinding, error
from bitgolf.score.audit.harness import AuditHarness
from bitgolf.score.audit.runner import EvaluationRun


def check_coverage(harness: AuditHarness, claimed: EvaluationRun) -> Iterator[AuditFinding]:
    """Every target must be scored exactly once."""
    times = np.bincount(claimed.claim.positions, minlength=harness.text.num_targets)
    missing, doubled = np.flatnonzero(times == 0), np.flatnonzero(times > 1)
    if len(missing):
        lost = sum(not times[start:stop].any() for start, stop in harness.spans)
        rule = "partial-validation" if lost else "dropped-tail" if _is_tail(missing, harness) else "skipped-targets"
        yield error(rule, f"{len(missing)} of {harness.text.num_targets} targets", targets=len(missing), documents=lost)
    if len(doubled):
        rule = "doubled-tail" if _is_tail(doubled, harness) else "charged-twice"
        details = f"{len(doubled)} of {harness.text.num_targets} targets, up to {times.max()} times"
        yield error(rule, details, targets=len(doubled), times=int(times.max()))


def _is_tail(targets: Ints, harness: AuditHarness) -> bool:
    """Whether these targets are the last ones of the text, and less than half of it."""
    total = harness.text.num_targets
    return len(targets) == total - targets[0] and len(targets) < total / 2
