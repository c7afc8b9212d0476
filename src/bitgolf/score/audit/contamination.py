"""What happened before scoring: an artifact that is built, or warmed up, on the text that it is scored on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bitgolf.score.audit.findings import Finding, error, warning
from bitgolf.score.audit.harness import Exam, Run


def repeatable(exam: Exam) -> Iterator[Finding]:
    """The same run twice."""
    if found := apart(exam.honest, exam.run(exam.text.tokens), exam.depth.exact):
        yield error("not-deterministic", f"by up to {found:.2g} bits a target", bits=found)


def phases(exam: Exam, claimed: Run) -> Iterator[Finding]:
    """The claim was made with the text in view throughout; it must not change when that is another text until scoring."""
    text = exam.text.tokens
    moved = apart(exam.honest, claimed, exam.depth.exact)
    build = apart(exam.honest, exam.run(text, build=text), exam.depth.exact) if moved else 0.0
    warm_up = apart(exam.honest, exam.run(text, warm_up=text), exam.depth.exact) if moved else 0.0
    gain = bits_saved(exam.honest, claimed)
    if build or (moved and not warm_up):
        yield error("calibrated-on-validation", f"{gain:.3g} bits saved", bits=gain)
    if warm_up:
        yield error("warmed-up-on-validation", f"{gain:.3g} bits saved", bits=gain)
    early = {read.phase for read in claimed.reads if read.phase != "scoring" and read.stop > read.start}
    if early and not moved:
        yield warning("reads-before-scoring", ", ".join(sorted(early)))


def apart(one: Run, other: Run, exact: float) -> float:
    """The most that a charge differs, bits, if that is more than `exact`; infinite where other targets were charged."""
    if not np.array_equal(one.claim.positions, other.claim.positions):
        return np.inf
    most = float(np.abs(one.claim.bits - other.claim.bits).max())
    return most if most > exact else 0.0


def bits_saved(before: Run, after: Run) -> float:
    return float(before.claim.bits.sum() - after.claim.bits.sum())
