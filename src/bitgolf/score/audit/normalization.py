"""Whether there is a distribution behind each charge, and whether it was there before its target."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bitgolf.score.audit.evaluation import Floats, Ints, TextRead
from bitgolf.score.audit.findings import AuditFinding, error
from bitgolf.score.audit.harness import AuditHarness

SUM_TOLERANCE = 1e-6  # a sum of probabilities may be off by so much
DRAWS_PER_TARGET = 16  # targets of which one is taken: that which was cheapest, as cheats pay there


def check_normalization(exam: AuditHarness) -> Iterator[AuditFinding]:
    """At targets deep in the text, the charge of every token: the text is cut behind the target, and that replaced."""
    tokens = candidate_tokens(exam)
    for target in _targets(exam):
        charges = np.array([_charge(exam, target, token)[0] for token in tokens.tolist()])
        if not np.isfinite(charges).all():
            yield error("dropped-tail", f"of a text that ends with target {target}", target=target)
            continue
        yield from _check_distribution(exam, target, tokens, charges)
        total = float(np.exp2(-charges).sum())
        if total > 1 + SUM_TOLERANCE or (total < 1 - SUM_TOLERANCE and len(tokens) == exam.tokenizer.vocab):
            passes = count_passes(exam.baseline.reads, exam.text.num_targets)
            rule = "best-of-passes" if passes > 1 and total > 1 else "sums-to-one"
            yield error(rule, f"they sum to {total:.6g} at target {target}", sum=total, target=target, passes=passes)


def _targets(exam: AuditHarness) -> list[int]:
    """Each the cheapest of some in the later half that were drawn at random."""
    claim, chosen = exam.baseline.claim, set[int]()
    late = np.flatnonzero(claim.positions >= exam.text.num_targets // 2).tolist()
    for _ in range(exam.budget.normalization_targets):
        drawn = exam.choice(late, DRAWS_PER_TARGET)
        chosen.add(int(claim.positions[min(drawn, key=lambda i: claim.bits[i])]))
    return sorted(chosen)


def candidate_tokens(exam: AuditHarness) -> Ints:
    """All tokens, or the most frequent ones where they are too many: those then must not sum to more than one."""
    counts = np.bincount(np.append(exam.training, exam.text.tokens), minlength=exam.tokenizer.vocab)
    return np.argsort(-counts, kind="stable")[: exam.budget.candidates]


def _charge(exam: AuditHarness, target: int, token: int) -> tuple[float, Floats | None]:
    """Bits of a token as the last target of a text, infinite where it is not charged, and its distribution if there is one."""
    run = exam.run(np.append(exam.text.tokens[: target + 1], token), distribution_targets=(target,)).claim
    found, bits = run.bits[run.positions == target], run.distributions.get(target)
    whole = bits is not None and bits.shape == (exam.tokenizer.vocab,)
    return float(found[0]) if len(found) else np.inf, bits if whole else None


def _check_distribution(exam: AuditHarness, target: int, tokens: Ints, charges: Floats) -> Iterator[AuditFinding]:
    """A distribution that an entry hands over is what it charges by, whichever token is the target."""
    said = _charge(exam, target, int(exam.text.tokens[target + 1]))[1]
    if said is None:
        return
    off = np.abs(said[tokens] - charges)
    if off.max() <= exam.budget.tolerance:
        return
    worst = int(tokens[off.argmax()])
    other = _charge(exam, target, worst)[1]
    moves = other is not None and np.abs(other - said).max() > exam.budget.tolerance
    seen = f"by up to {off.max():.2g} bits at target {target}"
    yield error("target-in-key" if moves else "charge-mismatch", seen, bits=float(off.max()), target=target)


def count_passes(reads: list[TextRead], targets: int) -> int:
    """How often the text was read from its beginning to its end while it was scored."""
    found, furthest = 0, 0
    for read in reads:
        if read.phase != "scoring":
            continue
        if read.start < targets // 10 and furthest >= targets * 9 // 10:
            furthest = 0
        if furthest < targets * 9 // 10 <= read.stop:
            found += 1
        furthest = max(furthest, read.stop)
    return found
