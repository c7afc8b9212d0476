"""Rules on data: which validation text was scored, and on which shards a run trained."""

from __future__ import annotations

from bitgolf.submission.finding import Found, Record, RecordRule

VALIDATION_DOCUMENTS, NEARLY_ALL = 50_000, 49_000
"""Documents of the validation text, and the number from which on a log counts all of them (some count borders)."""
PUBLISHED_TOKENS = {
    "fineweb10B_sp1024": 62_021_846,
    "fineweb10B_sp4096": 45_515_000,
    "fineweb10B_sp8192": 40_545_000,
    "fineweb10B_sp8192_lossless_caps_caseops_v1_reserved": 47_853_344,
    "fineweb10B_byte260": 151_130_112,
}
"""Validation tokens of published data sets. Scripts drop up to a few thousand at the end."""
DROPPED = 0.002
"""Share of the tokens that may be dropped at the end, so that whole windows remain."""
FEWEST_TOKENS = 30_000_000
"""Tokens that any tokenizer of at most 65,536 pieces makes of the 151 million bytes of the validation text."""
LOCAL_SHARDS = 1_000
"""Training shards above which they are not those that are published: the CaseOps script writes shards of 10 million
tokens from a local copy of the documents, and its default keeps only 10,000 documents for validation."""


def partial_validation(record: Record) -> Found:
    """The claimed score is of a part of the validation text."""
    for log in record.claimed_logs if record.folder.is_timed else ():
        tokens, line = log.whole.get("validation_tokens", (FEWEST_TOKENS, 0))
        if tokens < FEWEST_TOKENS:
            evidence = f"It was scored on {tokens:,} tokens; the validation text has at least {FEWEST_TOKENS:,}."
            yield log.name, line, evidence


def validation_tokens(record: Record) -> Found:
    """The validation tokens of a published data set are fewer than were published."""
    for log in record.claimed_logs:
        tokens, line = log.whole.get("validation_tokens", (0, 0))
        published = PUBLISHED_TOKENS.get(log.dataset, 0)
        if tokens >= FEWEST_TOKENS and abs(tokens - published) > DROPPED * published > 0:
            yield (
                log.name,
                line,
                f"{log.dataset} was published with {published:,} validation tokens; {tokens:,} were scored.",
            )


def validation_documents(record: Record) -> Found:
    for log in record.logs:
        documents, line = log.whole.get("documents", (VALIDATION_DOCUMENTS, 0))
        if documents < NEARLY_ALL:
            evidence = f"{documents:,} documents were scored; the validation text has {VALIDATION_DOCUMENTS:,}."
            yield log.name, line, evidence
            break


def local_shards(record: Record) -> Found:
    for log in record.logs:
        shards, line = log.whole.get("train_shards", (0, 0))
        if shards > LOCAL_SHARDS:
            evidence = (
                f"It trained on {shards:,} shards, which are not the published ones; the script that writes them keeps "
                "10,000 documents for validation by default, so 40,000 scored documents may be among them."
            )
            yield log.name, line, evidence
            break


RULES = (
    RecordRule("partial-validation", "error", partial_validation),
    RecordRule("validation-tokens", "warning", validation_tokens),
    RecordRule("validation-documents", "warning", validation_documents),
    RecordRule("local-shards", "warning", local_shards),
)
