"""`bitgolf data make` and `bitgolf data check`: write shards from text, and verify shards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from bitgolf.data.manifest import Manifest
from bitgolf.data.prepare import prepare_data
from bitgolf.data.verify import verify_data
from bitgolf.errors import UsageError
from bitgolf.report.findings import DataFinding
from bitgolf.text.documents import read_documents, train_validation_split
from bitgolf.text.read_report import DEFAULT_OPTIONS, ReadOptions, ReadReport
from bitgolf.tokens.audit import audit_tokenizer, refuse_errors
from bitgolf.tokens.loading import load_tokenizer, tokenizer_from_bytes
from bitgolf.tokens.tokenizer import Tokenizer
from bitgolf.tokens.trainers import ByteLevel, CaseOpsBPE, SentencePieceBPE, TokenizerTrainer

KINDS = ("sentencepiece", "caseops", "bytes")
"""Kinds of tokenizers that `data make` trains."""


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
    kind: str = "",
    reading: ReadOptions = DEFAULT_OPTIONS,
    *,
    pattern: str = "",
    force: bool = False,
) -> MadeShards:
    """Tokenize documents and write training and validation shards to `folder`.

    vocab: size of the vocabulary if a tokenizer is trained. tokenizer: file of a tokenizer to use instead. held_out:
    share of the documents for validation. kind: sentencepiece, caseops or bytes; "" for that of the file, otherwise
    sentencepiece. reading: how records are read. pattern: of a tiktoken file. force: use a tokenizer whose audit finds
    an error. Raises `UsageError` for an unknown kind or one that contradicts the file, and `BitgolfError` if the
    tokenizer cannot be used; nothing is written then.
    """
    _check_kind(kind, tokenizer, pattern)
    report = ReadReport()
    training, validation = train_validation_split(read_documents(text, reading, report), held_out, report)
    notes: list[DataFinding] = []
    if tokenizer:
        made = _tokenizer_of_file(tokenizer, kind, pattern)
    else:
        made = tokenizer_from_bytes(_trainer(kind, vocab).train((d.data for d in training), notes.append))
    audited = audit_tokenizer(made, (d.data for d in validation[:20]))
    findings = refuse_errors(audited, force=force, where=str(tokenizer or "tokenizer"), how_to_force="--force")
    manifest = prepare_data(training, validation, made, folder)
    return MadeShards(**msgspec.structs.asdict(manifest), findings=_rows([*notes, *findings]), text=report)


def _trainer(kind: str, vocab: int) -> TokenizerTrainer:
    if kind == "bytes":
        return ByteLevel()
    return CaseOpsBPE(vocab=vocab) if kind == "caseops" else SentencePieceBPE(vocab=vocab)


def _check_kind(kind: str, given: Path | None, pattern: str) -> None:
    if kind not in ("", *KINDS):
        raise UsageError(f"unknown kind of tokenizer {kind!r}", where="--kind", hint=f"--kind {' or '.join(KINDS)}")
    if given and kind == "bytes":
        raise UsageError(
            "--kind bytes takes no --tokenizer file",
            where=str(given),
            hint="leave out --kind bytes or --tokenizer",
        )
    if pattern and not given:
        raise UsageError(f"--pattern does nothing without --tokenizer, got {pattern!r}", hint="leave --pattern out")


def _tokenizer_of_file(path: Path, kind: str, pattern: str) -> Tokenizer:
    opened = load_tokenizer(path, pattern=pattern)
    if kind and kind != opened.kind:
        raise UsageError(
            f"--kind is {kind}, but this is a tokenizer of the kind {opened.kind}",
            where=str(path),
            hint="leave --kind out: the contents of the file determine it",
        )
    return opened


def check_shards(folder: Path) -> ShardsCheck:
    """Verify shards: format, sizes, digests, document starts, and overlap of training and validation text."""
    findings = _rows(verify_data(folder))
    return ShardsCheck(folder=str(folder), findings=findings, passes=not any(f.severity == "error" for f in findings))


def _rows(findings: Iterable[DataFinding]) -> list[FindingRow]:
    return [FindingRow(*finding) for finding in findings]
