"""The rules of an audit and its findings. Rules are ordered: a cause comes before the rules that it also breaks."""

from __future__ import annotations

from typing import Literal, NamedTuple

AuditSeverity = Literal["error", "warning"]

RULES: dict[str, str] = {
    "evaluation-error": "the evaluation raised an error or returned an invalid score",
    "timeout": "a run took longer than its time limit",
    "not-deterministic": "two runs on the same text gave different bits, so runs on altered texts prove nothing",
    "lossy-tokenizer": "tokens do not restore a document, or two texts have the same, and it costs below 8 bits per byte",
    "no-space-piece": "a space that stands alone is encoded as three byte tokens and counted as three bytes",
    "bytes-space-twice": "a space is counted twice: in the piece that it begins, and separately",
    "bytes-fallback-x3": "a byte token is counted as three bytes, the length of a replacement character in UTF-8",
    "bytes-over": "more bytes are reported than the raw documents have",
    "bytes-under": "fewer bytes are reported than the raw documents have, which makes the score worse",
    "partial-validation": "whole documents were not scored",
    "dropped-tail": "the last targets were not scored",
    "skipped-targets": "targets within documents were not scored",
    "doubled-tail": "the last targets, less than half of the text, were scored more than once",
    "charged-twice": "targets were scored more than once",
    "calibrated-on-validation": "bits depend on the validation text that was available in the build",
    "warmed-up-on-validation": "bits depend on the validation text that was available in the warm-up",
    "reads-before-scoring": "validation tokens were read before scoring, but the bits do not depend on them",
    "stored-text": "a part of the text costs far less than the rest, or only in its place: the artifact contains it",
    "batch-leak": "a document's bits depend on a later document, although documents are declared isolated",
    "document-leak": "a document's bits depend on an earlier document, although documents are declared isolated",
    "two-pass": "bits depend on the whole later text, e.g. through statistics of the text or a second pass",
    "last-epoch": "bits depend on the rest of the document: the model was trained on it, or chosen by it",
    "fitted-to-own-targets": "bits depend on later tokens of a window: parameters or a model were fitted to its targets",
    "lookahead": "bits depend on the next few tokens, e.g. through a mask or a shift that is off by one",
    "document-lengths": "bits or their order depend on the lengths of later documents, without side bits for them",
    "target-in-key": "the reported distribution at a target depends on that target",
    "best-of-passes": "several passes, and probabilities that sum to over one: the best pass was taken for each target",
    "sums-to-one": "the probabilities of all tokens at a target do not sum to one",
    "charge-mismatch": "the bits of a target differ from those in the reported distribution",
}


class AuditFinding(NamedTuple):
    """A violation of a rule, with the figures in `evidence`. Errors reject the evaluation, warnings do not."""

    rule: str
    severity: AuditSeverity
    message: str
    evidence: dict[str, float] = {}


def ranked(findings: list[AuditFinding]) -> list[AuditFinding]:
    """Errors before warnings, each in the order of `RULES`."""
    order = list(RULES)
    return sorted(findings, key=lambda f: (f.severity != "error", order.index(f.rule)))


def error(rule: str, details: str = "", **evidence: float) -> AuditFinding:
    """A finding that rejects the evaluation. details: figures of this case, added to the text of the rule."""
    return AuditFinding(rule, "error", RULES[rule] + (f" ({details})" if details else ""), evidence)


def warning(rule: str, details: str = "", **evidence: float) -> AuditFinding:
    """A finding that does not reject the evaluation."""
    return AuditFinding(rule, "warning", RULES[rule] + (f" ({details})" if details else ""), evidence)
