"""What an audit can find: each rule with what breaking it means, the one that names the cause before those that follow from it."""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]

RULES: dict[str, str] = {
    "evaluation-error": "the evaluation raised an error, or its claim is not one",
    "timeout": "a run took longer than its limit",
    "not-deterministic": "the same text twice gave other charges: nothing can be concluded from an altered text",
    "lossy-tokenizer": "a document does not come back from its tokens, and was not charged 8 bits for each of its bytes",
    "no-space-piece": "a space is spelled in three byte tokens and counted as three bytes",
    "bytes-space-twice": "a space is counted in the piece that it opens, and once more",
    "bytes-fallback-x3": "a byte token is counted as the three bytes of a replacement character",
    "bytes-over": "more bytes are counted than the raw documents have",
    "bytes-under": "fewer bytes are counted than the raw documents have: an honest mistake, to the claim's loss",
    "partial-validation": "whole documents were not charged",
    "dropped-tail": "the last targets were not charged",
    "skipped-targets": "targets in the middle of documents were not charged",
    "doubled-tail": "the last targets were charged more than once",
    "charged-twice": "targets were charged more than once",
    "calibrated-on-validation": "charges depend on the validation text that was shown while the artifact was built",
    "warmed-up-on-validation": "charges depend on the validation text that was shown while warming up",
    "reads-before-scoring": "validation tokens were read before scoring, though no charge moved with them",
    "batch-leak": "a later document moves a document's charges, though documents are declared isolated",
    "document-leak": "an earlier document moves a document's charges, though documents are declared isolated",
    "two-pass": "charges depend on all of the text that comes later: statistics of the whole, or a second scoring",
    "last-epoch": "charges depend on the rest of the document: it was learned before it was scored",
    "fitted-to-own-targets": "charges depend on later tokens of the same window: something was fitted to the targets it is scored on",
    "lookahead": "charges depend on the next few tokens: a mask or a shift that is off",
    "document-lengths": "charges or their order depend on how long later documents are, which nobody paid for",
    "target-in-key": "the distribution that is handed over moves with the very target it is asked for",
    "best-of-passes": "several passes over the text and probabilities that sum to more than one: the best was kept, target by target",
    "sums-to-one": "the probabilities of all tokens at a target do not sum to one",
    "charge-mismatch": "what is charged is not what the distribution that was handed over says",
}


class AuditFinding(NamedTuple):
    """A rule that is broken, how bad that is, what was seen, and the figures of it. Warnings reject nothing."""

    rule: str
    severity: Severity
    message: str
    evidence: dict[str, float] = {}


def ranked(findings: list[AuditFinding]) -> list[AuditFinding]:
    """Errors first, among them causes before consequences."""
    order = list(RULES)
    return sorted(findings, key=lambda f: (f.severity != "error", order.index(f.rule)))


def error(rule: str, seen: str = "", **evidence: float) -> AuditFinding:
    """The finding of a rule that rejects: what it means, and what was seen."""
    return AuditFinding(rule, "error", RULES[rule] + (f" ({seen})" if seen else ""), evidence)


def warning(rule: str, seen: str = "", **evidence: float) -> AuditFinding:
    return AuditFinding(rule, "warning", RULES[rule] + (f" ({seen})" if seen else ""), evidence)
