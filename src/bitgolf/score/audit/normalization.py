"""Check that the bits of all tokens at a target form a distribution, and that it does not depend on the target."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bitgolf.score.audit.evaluation import Floats, Ints, TextRead
from bitgolf.score.audit.findings import AuditFinding, error
from bitgolf.score.audit.harness import AuditHarness

SUM_TOLERANCE = 1e-6  # maximum deviation of a sum of probabilities from 1
DRAWS_PER_TARGET = 16  # random targets of which the one with the fewest bits is tested, since cheats show there


def check_normalization(harness: AuditHarness) -> Iterator[AuditFinding]:
    """Sum the probabilities of all tokens at some targets late in the text.

    The bits of a token are found by cutting the text after the target and replacing the target by the token.
    """
    tokens = candidate_tokens(harness)
    for target in _targets(harness):
        charges = np.array([_charge(harness, target, token)[0] for token in tokens.tolist()])
        if not np.isfinite(charges).all():
            yield error("dropped-tail", f"in a text that ends with target {target}", target=target)
            continue
        yield from _check_distribution(harness, target, tokens, charges)
        total = float(np.exp2(-charges).sum())
        if total > 1 + SUM_TOLERANCE or (total < 1 - SUM_TOLERANCE and len(tokens) == harness.tokenizer.vocab):
            passes = count_passes(harness.baseline.reads, harness.text.num_targets)
            rule = "best-of-passes" if passes > 1 and total > 1 else "sums-to-one"
            yield error(rule, f"sum {total:.6g} at target {target}", sum=total, target=target, passes=passes)


def _targets(harness: AuditHarness) -> list[int]:
    """Targets to test, sorted: each has the fewest bits of `DRAWS_PER_TARGET` random targets of the second half."""
    claim, chosen = harness.baseline.claim, set[int]()
    late = np.flatnonzero(claim.positions >= harness.text.num_targets // 2).tolist()
    for _ in range(harness.budget.normalization_targets):
        drawn = harness.choice(late, DRAWS_PER_TARGET)
        chosen.add(int(claim.positions[min(drawn, key=lambda i: claim.bits[i])]))
    return sorted(chosen)


def candidate_tokens(harness: AuditHarness) -> Ints:
    """All tokens, or the `budget.candidates` most frequent ones; the latter must not sum to more than one."""
    counts = np.bincount(np.append(harness.training, harness.text.tokens), minlength=harness.tokenizer.vocab)
    return np.argsort(-counts, kind="stable")[: harness.budget.candidates]


def _charge(harness: AuditHarness, target: int, token: int) -> tuple[float, Floats | None]:
    """Bits of a token as the last target of a text, infinite if it is not scored, and the reported distribution.

    The distribution is None if there is none or it has a wrong shape.
    """
    run = harness.run(np.append(harness.text.tokens[: target + 1], token), distribution_targets=(target,)).claim
    found, bits = run.bits[run.positions == target], run.distributions.get(target)
    whole = bits is not None and bits.shape == (harness.tokenizer.vocab,)
    return float(found[0]) if len(found) else np.inf, bits if whole else None


def _check_distribution(harness: AuditHarness, target: int, tokens: Ints, charges: Floats) -> Iterator[AuditFinding]:
    """A reported distribution must give the bits that are scored, and be the same for every token as the target."""
    reported = _charge(harness, target, int(harness.text.tokens[target + 1]))[1]
    if reported is None:
        return
    off = np.abs(reported[tokens] - charges)
    if off.max() <= harness.budget.tolerance:
        return
    worst = int(tokens[off.argmax()])
    other = _charge(harness, target, worst)[1]
    differs = other is not None and np.abs(other - reported).max() > harness.budget.tolerance
    details = f"by up to {off.max():.2g} bits at target {target}"
    yield error("target-in-key" if differs else "charge-mismatch", details, bits=float(off.max()), target=target)


def count_passes(reads: list[TextRead], targets: int) -> int:
    """How many times the text was read from beginning to end in the scoring phase."""
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
