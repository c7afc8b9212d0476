"""`bitgolf data make` and `data verify_data`: from text to shards, and whether shards are what they say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from bitgolf.data.manifest import Manifest
from bitgolf.data.prepare import prepare_data
from bitgolf.data.verify import verify_data
from bitgolf.errors import UsageError
from bitgolf.report.findings import DataFinding
from bitgolf.text.documents import Document, read_documents, train_validation_split
from bitgolf.tokens.audit import audit_tokenizer
from bitgolf.tokens.loading import load_tokenizer, tokenizer_from_bytes
from bitgolf.tokens.tokenizer import Tokenizer
from bitgolf.tokens.trainers import ByteLevel, CaseOpsBPE, SentencePieceBPE


class FindingRow(msgspec.Struct, frozen=True):
    """One thing found: the rule that it breaks, how bad that is (error, warning, note), and what was seen."""

    rule: str
    severity: str
    message: str


class MadeShards(Manifest, frozen=True, kw_only=True):
    """The manifest of the shards that were made, and findings about their tokenizer."""

    findings: list[FindingRow]


class ShardsCheck(msgspec.Struct, frozen=True, kw_only=True):
    """passes: no finding is an error."""

    folder: str
    findings: list[FindingRow]
    passes: bool


def make_shards(
    folder: Path, text: Sequence[Path], vocab: int, tokenizer: Path | None, held_out: float, kind: str = "sentencepiece"
) -> MadeShards:
    """Tokenize documents and write shards, with some of the documents held out."""
    training, validation = train_validation_split(read_documents(text), held_out)
    made = _tokenizer(kind, vocab, tokenizer, training)
    findings = _rows(audit_tokenizer(made, (d.data for d in validation[:20])))
    manifest = prepare_data(training, validation, made, folder)
    return MadeShards(**msgspec.structs.asdict(manifest), findings=findings)


def _tokenizer(kind: str, vocab: int, given: Path | None, documents: Sequence[Document]) -> Tokenizer:
    """The one of a file, or trained on these documents."""
    trainers = {
        "sentencepiece": SentencePieceBPE(vocab=vocab),
        "caseops": CaseOpsBPE(vocab=vocab),
        "bytes": ByteLevel(),
    }
    if kind not in trainers:
        raise UsageError(f"unknown kind of tokenizer {kind!r}", hint=f"--kind {' or '.join(trainers)}")
    if given and kind == "bytes":
        raise UsageError(
            "--kind bytes takes no --tokenizer file",
            where=str(given),
            hint="leave one of --kind bytes and --tokenizer out",
        )
    if given:
        return load_tokenizer(given, case_operators=kind == "caseops")
    return tokenizer_from_bytes(trainers[kind].train(d.data for d in documents))


def check_shards(folder: Path) -> ShardsCheck:
    """Check shards: format, sizes, digests, document starts, overlap of training and validation."""
    findings = _rows(verify_data(folder))
    return ShardsCheck(folder=str(folder), findings=findings, passes=not any(f.severity == "error" for f in findings))


def _rows(findings: Iterable[DataFinding]) -> list[FindingRow]:
    return [FindingRow(*finding) for finding in findings]
