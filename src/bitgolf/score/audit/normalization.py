"""Whether there is a distribution behind each charge, and whether it was there before its target."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bitgolf.score.audit.evaluation import Floats, Ints, Read
from bitgolf.score.audit.findings import Finding, error
from bitgolf.score.audit.harness import Exam

ONE = 1e-6  # a sum of probabilities may be off by so much
TRIED = 16  # targets of which one is taken: that which was cheapest, as cheats pay there


def sums(exam: Exam) -> Iterator[Finding]:
    """At targets deep in the text, the charge of every token: the text is cut behind the target, and that replaced."""
    tokens = candidates(exam)
    for target in _targets(exam):
        charges = np.array([_charge(exam, target, token)[0] for token in tokens.tolist()])
        if not np.isfinite(charges).all():
            yield error("dropped-tail", f"of a text that ends with target {target}", target=target)
            continue
        yield from _handed_over(exam, target, tokens, charges)
        total = float(np.exp2(-charges).sum())
        if total > 1 + ONE or (total < 1 - ONE and len(tokens) == exam.alphabet.vocab):
            passes = sweeps(exam.honest.reads, exam.text.targets)
            rule = "best-of-passes" if passes > 1 and total > 1 else "sums-to-one"
            yield error(rule, f"they sum to {total:.6g} at target {target}", sum=total, target=target, passes=passes)


def _targets(exam: Exam) -> list[int]:
    """Each the cheapest of some in the later half that were drawn at random."""
    claim, chosen = exam.honest.claim, set[int]()
    late = np.flatnonzero(claim.positions >= exam.text.targets // 2).tolist()
    for _ in range(exam.depth.sums):
        drawn = exam.choice(late, TRIED)
        chosen.add(int(claim.positions[min(drawn, key=lambda i: claim.bits[i])]))
    return sorted(chosen)


def candidates(exam: Exam) -> Ints:
    """All tokens, or the most frequent ones where they are too many: those then must not sum to more than one."""
    counts = np.bincount(np.append(exam.training, exam.text.tokens), minlength=exam.alphabet.vocab)
    return np.argsort(-counts, kind="stable")[: exam.depth.candidates]


def _charge(exam: Exam, target: int, token: int) -> tuple[float, Floats | None]:
    """Bits of a token as the last target of a text, infinite where it is not charged, and its distribution if there is one."""
    run = exam.run(np.append(exam.text.tokens[: target + 1], token), asked=(target,)).claim
    found, bits = run.bits[run.positions == target], run.distributions.get(target)
    whole = bits is not None and bits.shape == (exam.alphabet.vocab,)
    return float(found[0]) if len(found) else np.inf, bits if whole else None


def _handed_over(exam: Exam, target: int, tokens: Ints, charges: Floats) -> Iterator[Finding]:
    """A distribution that an entry hands over is what it charges by, whichever token is the target."""
    said = _charge(exam, target, int(exam.text.tokens[target + 1]))[1]
    if said is None:
        return
    off = np.abs(said[tokens] - charges)
    if off.max() <= exam.depth.exact:
        return
    worst = int(tokens[off.argmax()])
    other = _charge(exam, target, worst)[1]
    moves = other is not None and np.abs(other - said).max() > exam.depth.exact
    seen = f"by up to {off.max():.2g} bits at target {target}"
    yield error("target-in-key" if moves else "charge-mismatch", seen, bits=float(off.max()), target=target)


def sweeps(reads: list[Read], targets: int) -> int:
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
