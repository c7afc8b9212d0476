"""`bitgolf data make` and `bitgolf data check`: write shards from text, and verify shards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from bitgolf.data.manifest import Manifest
from bitgolf.data.prepare import prepare_data
from bitgolf.data.shard_folder import check_tokenizer_option
from bitgolf.data.verify import verify_data
from bitgolf.errors import UsageError
from bitgolf.report.findings import DataFinding
from bitgolf.report.log import RunLog
from bitgolf.text.documents import Document, read_documents, train_validation_split
from bitgolf.text.read_report import DEFAULT_OPTIONS, ReadOptions, ReadReport
from bitgolf.tokens.audit import audit_tokenizer
from bitgolf.tokens.loading import load_tokenizer, tokenizer_from_bytes
from bitgolf.tokens.tokenizer import Tokenizer
from bitgolf.tokens.trainers import ByteLevel, CaseOpsBPE, SentencePieceBPE


class FindingRow(msgspec.Struct, frozen=True):
    """A finding: the rule that is violated, its severity (error, warning, note), and a message."""

    rule: str
    severity: str
    message: str


class MadeShards(Manifest, frozen=True, kw_only=True):
    """The keys of `data make --json`: the manifest of the new shards, findings about their tokenizer, and what was read."""

    findings: list[FindingRow]
    text: ReadReport


class ShardsCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `data check --json`. passes: whether no finding is an error."""

    folder: str
    findings: list[FindingRow]
    passes: bool


def make_shards(
    folder: Path,
    text: Sequence[Path],
    vocab: int,
    tokenizer: Path | None,
    held_out: float,
    kind: str = "sentencepiece",
    reading: ReadOptions = DEFAULT_OPTIONS,
) -> MadeShards:
    """Tokenize documents and write training and validation shards to `folder`.

    vocab: size of the vocabulary if a tokenizer is trained. tokenizer: file of a tokenizer to use instead. held_out:
    share of the documents for validation. kind: sentencepiece, caseops or bytes. reading: how records are read.
    Raises `UsageError` for an unknown kind.
    """
    report = ReadReport()
    training, validation = train_validation_split(read_documents(text, reading, report), held_out, report)
    made = _tokenizer(kind, vocab, tokenizer, training)
    findings = _rows(audit_tokenizer(made, (d.data for d in validation[:20])))
    manifest = prepare_data(training, validation, made, folder)
    return MadeShards(**msgspec.structs.asdict(manifest), findings=findings, text=report)


def _tokenizer(kind: str, vocab: int, given: Path | None, documents: Sequence[Document]) -> Tokenizer:
    """Load the tokenizer from a file if one is given, otherwise train it on the documents."""
    trainers = {
        "sentencepiece": SentencePieceBPE(vocab=vocab),
        "caseops": CaseOpsBPE(vocab=vocab),
        "bytes": ByteLevel(),
    }
    if kind not in trainers:
        raise UsageError(f"unknown kind of tokenizer {kind!r}", where="--kind", hint=f"--kind {' or '.join(trainers)}")
    if given and kind == "bytes":
        raise UsageError(
            "--kind bytes takes no --tokenizer file",
            where=str(given),
            hint="leave out --kind bytes or --tokenizer",
        )
    if given:
        return load_tokenizer(given, case_operators=kind == "caseops")
    return tokenizer_from_bytes(trainers[kind].train(d.data for d in documents))


def check_shards(folder: Path, tokenizer: Path | None = None) -> ShardsCheck:
    """Verify shards: format, sizes, digests, ids, document starts, and overlap of training and validation text.

    tokenizer: file of the tokenizer that made published shards; None for the one in their folder.
    """
    check_tokenizer_option(tokenizer, folder)
    findings = _rows(verify_data(folder, tokenizer, RunLog()))
    return ShardsCheck(folder=str(folder), findings=findings, passes=not any(f.severity == "error" for f in findings))


def _rows(findings: Iterable[DataFinding]) -> list[FindingRow]:
    return [FindingRow(*finding) for finding in findings]
