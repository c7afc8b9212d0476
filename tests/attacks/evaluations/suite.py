"""The suite of cheats: each with its honest counterpart, and the rule that must name it.

`make cheats` writes the tables of `docs/scoring.md`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from attacks.evaluations import contamination, cross_document, denominator, lookahead, normalization
from attacks.evaluations.honest import Adaptive, Isolated, Static, world
from attacks.random_configurations import configured
from bitgolf.score.audit.audit import Audit, audit
from bitgolf.score.audit.evaluation import Entry
from bitgolf.score.audit.findings import RULES
from bitgolf.score.audit.harness import Depth
from bitgolf.tokens.tokenizer import Tokenizer

DEPTH = Depth(candidates=160)  # of 330: a cheat's surplus shows among the most frequent
PAGE = Path(__file__).parents[3] / "docs" / "scoring.md"
HONEST = 200  # configurations in which honest players must pass
Kind = Callable[[Tokenizer], Entry]


class Cheat(NamedTuple):
    """name: what the field calls it; does: what it is; the cheat, its honest counterpart, and the rule that must lead."""

    name: str
    does: str
    cheat: Kind
    twin: Kind
    rule: str


CHEATS = [
    Cheat("target in the hash key", "memory looked up by context and target", normalization.TargetInKey, normalization.ContextInKey, "target-in-key"),
    Cheat("backoff by the target", "the longest context in which the target is found", normalization.FoundBackoff, Adaptive, "sums-to-one"),
    Cheat("unnormalised blend", "hashed counts of the target alone, mixed in", normalization.Blend, Adaptive, "sums-to-one"),
    Cheat("best of several strides", "two passes, the least loss of each target", normalization.BestStride, normalization.Strided, "best-of-passes"),
    Cheat("two-pass rescoring", "scored again with the memory of the whole text", lookahead.TwoPass, Adaptive, "two-pass"),
    Cheat("last-epoch scoring", "three epochs on a document, the last one reported", lookahead.LastEpoch, Isolated, "last-epoch"),
    Cheat("own-window optimisation", "a bias fitted to the targets it is scored on (SLOT)", lookahead.OwnWindow, lookahead.Biased, "fitted-to-own-targets"),
    Cheat("future peek by one", "the token after the target mixed in", lookahead.FuturePeek, lookahead.Smeared, "lookahead"),
    Cheat("warm-up on validation text", "warms up with updates on half of the text", contamination.WarmedUp, contamination.Warm, "warmed-up-on-validation"),
    Cheat("calibration on validation text", "half of the text in the model's counts", contamination.Calibrated, Static, "calibrated-on-validation"),
    Cheat("spaces twice", "a byte table with the space in the piece and beside it", denominator.SpaceTwice, Static, "bytes-space-twice"),
    Cheat("fallback x3", "a byte table that decodes bytes one by one", denominator.FallbackThrice, Static, "bytes-fallback-x3"),
    Cheat("missing space piece", "each space spelled and counted as three bytes", denominator.NoSpacePiece, Static, "no-space-piece"),
    Cheat("case folded", "a tokenizer that does not bring capitals back", denominator.CaseFolded, Static, "lossy-tokenizer"),
    Cheat("dropped tail", "whole windows only, divided by all bytes", denominator.DroppedTail, Static, "dropped-tail"),
    Cheat("doubled tail", "the last windows overlap and count each time", denominator.DoubledTail, Adaptive, "doubled-tail"),
    Cheat("partial validation", "the longest half of the documents", denominator.Partial, Static, "partial-validation"),
    Cheat("leak over the document start", "memory filled from the stream before the document", cross_document.LongWindow, Isolated, "document-leak"),
    Cheat("adapter not reset", "one memory for documents that are declared isolated", cross_document.NeverReset, Isolated, "document-leak"),
    Cheat("rows that share", "documents side by side learn from one another", cross_document.SharedRows, Isolated, "batch-leak"),
    Cheat("longest document first", "order by lengths that nobody paid for", cross_document.LongestFirst, cross_document.Ordered, "document-lengths"),
]  # fmt: skip


def examined(kind: Kind, seed: int = 0) -> Audit:
    """The audit of an evaluation on the toy corpus."""
    scored, training, tokenizer = world()
    return audit(lambda: kind(tokenizer), scored, training, seed=seed, depth=DEPTH)


# ---- the page --------------------------------------------------------------------------------------------------------


def table() -> Iterator[str]:
    """The table of cheats, line by line, in Markdown: bits per byte as claimed, and what the audit saw."""
    yield "| cheat | what it does | claims | honest counterpart | caught by | evidence |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for cheat in CHEATS:
        caught, honest = examined(cheat.cheat), examined(cheat.twin)
        seen = caught.findings[0].message.partition("(")[2].removesuffix(")")
        yield f"| {cheat.name} | {cheat.does} | {caught.claimed:.3f} | {honest.claimed:.3f} | `{caught.verdict}` | {seen} |"


def rules() -> Iterator[str]:
    """What each rule means, in Markdown."""
    yield "| rule | what breaking it means |"
    yield "| --- | --- |"
    for rule, meaning in RULES.items():
        yield f"| `{rule}` | {meaning} |"


def honest(count: int) -> str:
    """A sentence on so many random configurations of honest players."""
    audits = [configured(seed) for seed in range(count)]
    methods = Counter(name for name, _ in audits)
    rejected = [seed for seed, (_, found) in enumerate(audits) if found.verdict != "passes"]
    listed = ", ".join(f"{name} {number}" for name, number in methods.items())
    return f"{count} random configurations of our own players ({listed}), {len(rejected)} rejected{rejected or ''}."


def marked(page: str, name: str) -> str:
    """What stands between the page's marks of this name."""
    return page.partition(f"<!-- {name} -->\n")[2].partition(f"\n<!-- end {name} -->")[0]


def main() -> None:
    """Write what is generated into the page: about five minutes on one core."""
    page = PAGE.read_text()
    for name, text in (("rules", "\n".join(rules())), ("cheats", "\n".join(table())), ("honest", honest(HONEST))):
        before, mark, rest = page.partition(f"<!-- {name} -->\n")
        page = before + mark + text + f"\n<!-- end {name} -->" + rest.partition(f"<!-- end {name} -->")[2]
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
