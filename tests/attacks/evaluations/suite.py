"""The suite of cheats: each with its honest counterpart, and the rule that must reject it.

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

BUDGET = AuditBudget(candidates=160)  # of 330 tokens: the excess probability of a cheat is among the most frequent ones
PAGE = Path(__file__).parents[3] / "docs" / "scoring.md"
HONEST_CONFIGURATIONS = 200  # random configurations of honest players, all of which must pass
MakeEvaluation = Callable[[Tokenizer], Evaluation]


class Cheat(NamedTuple):
    """A cheat, its honest counterpart, and the rule that must be the first finding of its audit."""

    name: str
    description: str
    cheat: MakeEvaluation
    honest: MakeEvaluation
    rule: str


CHEATS = [
    Cheat("target in the hash key", "counts with a key of context and target", normalization.TargetInKey, normalization.ContextInKey, "target-in-key"),
    Cheat("backoff by the target", "the longest context that has a count for the target", normalization.TargetBackoff, AdaptiveBigram, "sums-to-one"),
    Cheat("unnormalized blend", "hashed counts, evaluated at the target only, mixed in", normalization.UnnormalizedBlend, AdaptiveBigram, "sums-to-one"),
    Cheat("best of several strides", "two passes, the smaller loss of each target", normalization.BestStride, normalization.WindowedCounts, "best-of-passes"),
    Cheat("two-pass rescoring", "scored again with counts of the whole text", lookahead.TwoPass, AdaptiveBigram, "two-pass"),
    Cheat("last-epoch scoring", "three epochs on a document, the last one reported", lookahead.LastEpoch, IsolatedBigram, "last-epoch"),
    Cheat("own-window optimization", "a bias fitted to the targets that are scored with it (SLOT)", lookahead.OwnWindowBias, lookahead.PreviousWindowBias, "fitted-to-own-targets"),
    Cheat("lookahead by one token", "a distribution given the token after the target, mixed in", lookahead.NextTokenMixing, lookahead.PreviousTokenMixing, "lookahead"),
    Cheat("warm-up on validation text", "a warm-up that updates counts on half of the text", contamination.ValidationWarmup, contamination.RandomTokenWarmup, "warmed-up-on-validation"),
    Cheat("calibration on validation text", "a model with counts of half of the text", contamination.ValidationCalibration, BigramEvaluation, "calibrated-on-validation"),
    Cheat("spaces counted twice", "a byte table that counts a space in its piece and separately", denominator.SpaceCountedTwice, BigramEvaluation, "bytes-space-twice"),
    Cheat("byte fallback counted three times", "a byte table that decodes byte tokens one by one", denominator.ByteFallbackCountedThrice, BigramEvaluation, "bytes-fallback-x3"),
    Cheat("missing space piece", "each space encoded and counted as three bytes", denominator.NoSpacePiece, BigramEvaluation, "no-space-piece"),
    Cheat("text converted to lower case", "a tokenizer that does not restore capitals", denominator.LowercasedText, BigramEvaluation, "lossy-tokenizer"),
    Cheat("dropped tail", "whole windows only, divided by all bytes", denominator.DroppedTail, BigramEvaluation, "dropped-tail"),
    Cheat("doubled tail", "the last windows overlap, and their targets count each time", denominator.DoubledTail, AdaptiveBigram, "doubled-tail"),
    Cheat("partial validation", "only the longest half of the documents", denominator.PartialValidation, BigramEvaluation, "partial-validation"),
    Cheat("context before the document", "counts of the stream before the document", cross_document.ContextBeforeDocument, IsolatedBigram, "document-leak"),
    Cheat("counts not reset", "one table of counts for documents that are declared isolated", cross_document.MemoryNotReset, IsolatedBigram, "document-leak"),
    Cheat("counts shared by rows", "one table of counts for documents side by side", cross_document.SharedRows, IsolatedBigram, "batch-leak"),
    Cheat("longest document first", "order by length, without bits for the lengths", cross_document.SortedByLength, cross_document.PreviousDocumentMemory, "document-lengths"),
]  # fmt: skip


def audit_cheat(kind: MakeEvaluation, budget: AuditBudget = BUDGET) -> AuditReport:
    """Audit an evaluation on the toy corpus."""
    scored, training, tokenizer = toy_corpus()
    return audit_evaluation(lambda: kind(tokenizer), scored, training, seed=0, budget=budget)


# ---- tables of docs/scoring.md ---------------------------------------------------------------------------------------


def cheats_table() -> Iterator[str]:
    """Lines of the table of cheats, in Markdown: the reported bits per byte, and the evidence of the audit."""
    yield "| cheat | what it does | reported bpb | honest bpb | rejected by | evidence |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for cheat in CHEATS:
        caught, honest = audit_cheat(cheat.cheat), audit_cheat(cheat.honest)
        evidence = caught.findings[0].message.partition("(")[2].removesuffix(")")
        yield f"| {cheat.name} | {cheat.description} | {caught.claimed:.3f} | {honest.claimed:.3f} | `{caught.verdict}` | {evidence} |"


def rules_table() -> Iterator[str]:
    """Lines of the table of rules, in Markdown."""
    yield "| rule | what breaking it means |"
    yield "| --- | --- |"
    for rule, meaning in RULES.items():
        yield f"| `{rule}` | {meaning} |"


def honest(count: int) -> str:
    """A sentence about the audits of `count` random configurations of honest players."""
    audits = [audit_random_configuration(seed) for seed in range(count)]
    methods = Counter(name for name, _ in audits)
    rejected = [seed for seed, (_, found) in enumerate(audits) if found.verdict != "passes"]
    listed = ", ".join(f"{name} {number}" for name, number in methods.items())
    return f"{count} random configurations of our own players ({listed}), {len(rejected)} rejected{rejected or ''}."


def between_marks(page: str, name: str) -> str:
    """The text between the page's marks with this name."""
    return page.partition(f"<!-- {name} -->\n")[2].partition(f"\n<!-- end {name} -->")[0]


def main() -> None:
    """Write the generated tables to the page. This takes about five minutes on one core."""
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
