"""Check that the bits of all tokens at a target form a distribution, and that it does not depend on the target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bitgolf.score.audit.evaluation import ClaimedScore, Floats, Ints, TextRead
from bitgolf.score.audit.findings import AuditFinding, error
from bitgolf.score.audit.harness import AuditHarness

SUM_TOLERANCE = 1e-6  # maximum deviation of a sum of probabilities from 1


def check_normalization(harness: AuditHarness, asked: Ints, reported: ClaimedScore) -> Iterator[AuditFinding]:
    """The probabilities of all tokens must sum to one at each of the targets `asked`.

    reported: of a run that was asked for the distributions at these targets. Where it has them, they must sum to one,
    and a few tokens, put in the place of the target, must cost what they say. Elsewhere every token is tried. The text
    after the target stays, so that its length does not change; `check_causality` shows that it does not matter.
    """
    handed = np.isin(asked, [t for t, bits in reported.distributions.items() if bits.shape == (harness.vocab,)])
    findings = [
        *_check_reported(harness, asked[handed], reported),
        *_check_every_token(harness, asked[~handed][: harness.budget.summed_targets or None]),
    ]
    for rule in dict.fromkeys(finding.rule for finding in findings):  # one finding for each rule, and how often
        same = [finding for finding in findings if finding.rule == rule]
        targets = {finding.evidence["target"] for finding in same}
        yield same[0]._replace(evidence={**same[0].evidence, "targets": len(targets), "asked": len(asked)})


def expected_runs(harness: AuditHarness, asked: Ints, reported: ClaimedScore) -> int:
    """Runs of `check_normalization`, if it finds nothing."""
    handed = np.isin(asked, list(reported.distributions))
    tried = harness.by_run(asked[~handed][: harness.budget.summed_targets or None])
    return harness.budget.swaps * len(harness.by_run(asked[handed])) + len(tried) * len(candidate_tokens(harness))


def _sum_finding(harness: AuditHarness, target: int, total: float, complete: bool) -> Iterator[AuditFinding]:
    """A finding if a sum of probabilities is above one, or below it although no token is missing."""
    if total > 1 + SUM_TOLERANCE or (complete and total < 1 - SUM_TOLERANCE):
        passes = count_passes(harness.baseline.reads, harness.text.num_targets)
        rule = "best-of-passes" if passes > 1 and total > 1 else "sums-to-one"
        yield error(rule, f"sum {total:.6g} at target {target}", sum=total, target=target, passes=passes)


# ---- reported distributions ------------------------------------------------------------------------------------------


def _check_reported(harness: AuditHarness, targets: Ints, reported: ClaimedScore) -> Iterator[AuditFinding]:
    """Reported distributions must sum to one, give the bits that are scored, and be the same for any target."""
    fair = list[int]()
    for target in targets.tolist():
        bits = reported.distributions[target]
        off = abs(float(bits[harness.text.tokens[target + 1]] - harness.charges.bits[target]))
        if not off <= harness.budget.tolerance:
            yield error("charge-mismatch", f"by {off:.2g} bits at target {target}", bits=off, target=target)
            continue
        found = list(_sum_finding(harness, target, float(probabilities(bits).sum()), complete=True))
        yield from found
        fair += [target] * (not found)
    for together in _by_run(harness, np.array(fair, np.int64)):
        for swap in range(harness.budget.swaps):
            yield from _check_swaps(harness, together, reported, likely=swap % 2 == 0)


def _check_swaps(
    harness: AuditHarness, targets: Ints, reported: ClaimedScore, *, likely: bool
) -> Iterator[AuditFinding]:
    """Put another token in the place of each target. likely: drawn from the reported distribution, not uniformly."""
    tokens = np.array(
        [_other_token(harness, t, reported.distributions[t] if likely else None) for t in targets.tolist()]
    )
    changed = harness.text.tokens.copy()
    changed[targets + 1] = tokens
    run = harness.run(changed, distribution_targets=targets.tolist()).claim
    tolerance = 10 * harness.budget.tolerance  # rows of a batch that adapt together round differently
    for target, token in zip(targets.tolist(), tokens.tolist(), strict=True):
        found, bits = run.bits[run.positions == target], reported.distributions[target]
        if not len(found):  # unless targets are missing anyhow, which `check_coverage` reports
            if not np.isnan(harness.charges.bits).any():
                yield error("skipped-targets", f"target {target}, if it is token {token}", target=target)
            continue
        off = abs(float(found[0] - bits[token]))
        if not off <= tolerance:
            other = run.distributions.get(target)
            same = other is None or (other.shape == bits.shape and _close(other, bits, tolerance))
            rule = "charge-mismatch" if same else "target-in-key"
            yield error(rule, f"by {off:.2g} bits at target {target}", bits=off, target=target)


def _close(one: Floats, other: Floats, tolerance: float) -> bool:
    """Whether two distributions are the same; a token that cannot occur has infinitely many bits."""
    return bool(np.allclose(one, other, rtol=0.0, atol=tolerance))


def _other_token(harness: AuditHarness, target: int, bits: Floats | None) -> int:
    """A token other than BOS and the target, drawn from a distribution, or uniformly from the whole vocabulary."""
    chances = np.ones(harness.vocab) if bits is None else probabilities(bits)
    chances[[harness.bos, harness.text.tokens[target + 1]]] = 0
    if not chances.sum():  # it expects nothing else
        return _other_token(harness, target, None)
    return int(harness.random.choice(harness.vocab, p=chances / chances.sum()))


def _by_run(harness: AuditHarness, targets: Ints) -> list[Ints]:
    """As `harness.by_run`, but the end of a document is changed alone, as that joins it to the next one."""
    ends = harness.text.tokens[targets + 1] == harness.bos
    return [*harness.by_run(targets[~ends]), *targets[ends][:, None]]


# ---- every token -----------------------------------------------------------------------------------------------------


def _check_every_token(harness: AuditHarness, targets: Ints) -> Iterator[AuditFinding]:
    """Put each token in the place of the targets, the most frequent ones first, and sum their probabilities.

    The claimed bits count for the target itself. Ends with the first sum that is above one. A sum is incomplete if the end of
    a document at that place, or none, changes which targets are scored before.
    """
    for together in _by_run(harness, targets):
        tokens = candidate_tokens(harness)
        true = harness.text.tokens[together + 1]
        totals, known = (
            probabilities(harness.charges.bits[together]) * np.isin(true, tokens),
            np.ones(len(together), bool),
        )
        for token in tokens.tolist():
            if (totals > 1 + SUM_TOLERANCE).any():
                break
            if (true != token).any():
                bits = _bits_of_token(harness, together, token)
                totals += np.where(true != token, probabilities(np.nan_to_num(bits, nan=np.inf)), 0)
                known &= ~np.isnan(bits)
        complete = known & (len(tokens) == harness.vocab and not (totals > 1 + SUM_TOLERANCE).any())
        for target, total, whole in zip(together.tolist(), totals.tolist(), complete.tolist(), strict=True):
            yield from _sum_finding(harness, target, total, whole)
        if (totals > 1 + SUM_TOLERANCE).any():
            return


def _bits_of_token(harness: AuditHarness, targets: Ints, token: int) -> Floats:
    """The bits of the token at each of these targets, nan if they are not scored, or after other targets."""
    tokens = harness.text.tokens.copy()
    tokens[targets + 1] = token
    altered = harness.charges_on(tokens)
    comparable = [np.array_equal(harness.up_to(t), harness.up_to(t, altered)) for t in targets.tolist()]
    return np.where(comparable, altered.bits[targets], np.nan)


def candidate_tokens(harness: AuditHarness) -> Ints:
    """All tokens, or the `budget.candidates` most frequent ones; the latter must not sum to more than one."""
    counts = np.bincount(np.append(harness.training, harness.text.tokens), minlength=harness.vocab)
    return np.argsort(-counts, kind="stable")[: harness.budget.candidates or None]


def probabilities(bits: Floats) -> Floats:
    """2^-bits; bits below -60, which only a cheat has, count as -60."""
    return np.exp2(-np.maximum(bits, -60.0))


def count_passes(reads: Sequence[TextRead], targets: int) -> int:
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
