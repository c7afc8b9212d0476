"""The suite of cheats: each with its honest counterpart, and the rule that must name it.

`make cheats` writes the tables of `docs/scoring.md`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from attacks.evaluations import contamination, cross_document, denominator, lookahead, normalization
from attacks.evaluations.honest import AdaptiveBigram, BigramEvaluation, IsolatedBigram, toy_corpus
from attacks.random_configurations import audit_random_configuration
from bitgolf.score.audit.audit import AuditReport, audit_evaluation
from bitgolf.score.audit.evaluation import Evaluation
from bitgolf.score.audit.findings import RULES
from bitgolf.score.audit.harness import AuditBudget
from bitgolf.tokens.tokenizer import Tokenizer

BUDGET = AuditBudget(candidates=160)  # of 330: a cheat's surplus shows among the most frequent
PAGE = Path(__file__).parents[3] / "docs" / "scoring.md"
HONEST_CONFIGURATIONS = 200  # configurations in which honest players must pass
MakeEvaluation = Callable[[Tokenizer], Evaluation]


class Cheat(NamedTuple):
    """name: what the field calls it; does: what it is; the cheat, its honest counterpart, and the rule that must lead."""

    name: str
    description: str
    cheat: MakeEvaluation
    honest: MakeEvaluation
    rule: str


CHEATS = [
    Cheat("target in the hash key", "memory looked up by context and target", normalization.TargetInKey, normalization.ContextInKey, "target-in-key"),
    Cheat("backoff by the target", "the longest context in which the target is found", normalization.TargetBackoff, AdaptiveBigram, "sums-to-one"),
    Cheat("unnormalised blend", "hashed counts of the target alone, mixed in", normalization.UnnormalizedBlend, AdaptiveBigram, "sums-to-one"),
    Cheat("best of several strides", "two passes, the least loss of each target", normalization.BestStride, normalization.WindowedCounts, "best-of-passes"),
    Cheat("two-pass rescoring", "scored again with the memory of the whole text", lookahead.TwoPass, AdaptiveBigram, "two-pass"),
    Cheat("last-epoch scoring", "three epochs on a document, the last one reported", lookahead.LastEpoch, IsolatedBigram, "last-epoch"),
    Cheat("own-window optimisation", "a bias fitted to the targets it is scored on (SLOT)", lookahead.OwnWindowBias, lookahead.PreviousWindowBias, "fitted-to-own-targets"),
    Cheat("future peek by one", "the token after the target mixed in", lookahead.NextTokenMixing, lookahead.PreviousTokenMixing, "lookahead"),
    Cheat("warm-up on validation text", "warms up with updates on half of the text", contamination.ValidationWarmup, contamination.RandomTokenWarmup, "warmed-up-on-validation"),
    Cheat("calibration on validation text", "half of the text in the model's counts", contamination.ValidationCalibration, BigramEvaluation, "calibrated-on-validation"),
    Cheat("spaces twice", "a byte table with the space in the piece and beside it", denominator.SpaceCountedTwice, BigramEvaluation, "bytes-space-twice"),
    Cheat("fallback x3", "a byte table that decodes bytes one by one", denominator.ByteFallbackCountedThrice, BigramEvaluation, "bytes-fallback-x3"),
    Cheat("missing space piece", "each space spelled and counted as three bytes", denominator.NoSpacePiece, BigramEvaluation, "no-space-piece"),
    Cheat("case folded", "a tokenizer that does not bring capitals back", denominator.LowercasedText, BigramEvaluation, "lossy-tokenizer"),
    Cheat("dropped tail", "whole windows only, divided by all bytes", denominator.DroppedTail, BigramEvaluation, "dropped-tail"),
    Cheat("doubled tail", "the last windows overlap and count each time", denominator.DoubledTail, AdaptiveBigram, "doubled-tail"),
    Cheat("partial validation", "the longest half of the documents", denominator.PartialValidation, BigramEvaluation, "partial-validation"),
    Cheat("leak over the document start", "memory filled from the stream before the document", cross_document.ContextBeforeDocument, IsolatedBigram, "document-leak"),
    Cheat("adapter not reset", "one memory for documents that are declared isolated", cross_document.MemoryNotReset, IsolatedBigram, "document-leak"),
    Cheat("rows that share", "documents side by side learn from one another", cross_document.SharedRows, IsolatedBigram, "batch-leak"),
    Cheat("longest document first", "order by lengths that nobody paid for", cross_document.SortedByLength, cross_document.PreviousDocumentMemory, "document-lengths"),
]  # fmt: skip


def audit_cheat(kind: MakeEvaluation, seed: int = 0) -> AuditReport:
    """The audit of an evaluation on the toy corpus."""
    scored, training, tokenizer = toy_corpus()
    return audit_evaluation(lambda: kind(tokenizer), scored, training, seed=seed, budget=BUDGET)


# ---- the page --------------------------------------------------------------------------------------------------------


def cheats_table() -> Iterator[str]:
    """The table of cheats, line by line, in Markdown: bits per byte as claimed, and what the audit saw."""
    yield "| cheat | what it does | claims | honest counterpart | caught by | evidence |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for cheat in CHEATS:
        caught, honest = audit_cheat(cheat.cheat), audit_cheat(cheat.honest)
        seen = caught.findings[0].message.partition("(")[2].removesuffix(")")
        yield f"| {cheat.name} | {cheat.description} | {caught.claimed:.3f} | {honest.claimed:.3f} | `{caught.verdict}` | {seen} |"


def rules_table() -> Iterator[str]:
    """What each rule means, in Markdown."""
    yield "| rule | what breaking it means |"
    yield "| --- | --- |"
    for rule, meaning in RULES.items():
        yield f"| `{rule}` | {meaning} |"


def honest(count: int) -> str:
    """A sentence on so many random configurations of honest players."""
    audits = [audit_random_configuration(seed) for seed in range(count)]
    methods = Counter(name for name, _ in audits)
    rejected = [seed for seed, (_, found) in enumerate(audits) if found.verdict != "passes"]
    listed = ", ".join(f"{name} {number}" for name, number in methods.items())
    return f"{count} random configurations of our own players ({listed}), {len(rejected)} rejected{rejected or ''}."


def between_marks(page: str, name: str) -> str:
    """What stands between the page's marks of this name."""
    return page.partition(f"<!-- {name} -->\n")[2].partition(f"\n<!-- end {name} -->")[0]


def main() -> None:
    """Write what is generated into the page: about five minutes on one core."""
    page = PAGE.read_text()
    for name, text in (
        ("rules", "\n".join(rules_table())),
        ("cheats", "\n".join(cheats_table())),
        ("honest", honest(HONEST_CONFIGURATIONS)),
    ):
        before, mark, rest = page.partition(f"<!-- {name} -->\n")
        page = before + mark + text + f"\n<!-- end {name} -->" + rest.partition(f"<!-- end {name} -->")[2]
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
