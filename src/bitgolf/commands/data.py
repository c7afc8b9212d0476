"""`bitgolf data make` and `bitgolf data check`: write shards from text, and verify shards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from bitgolf.config.spec import Spec, part
from bitgolf.data.manifest import Manifest
from bitgolf.data.prepare import PreparedText, TextPreparation, input_folder, prepare_text
from bitgolf.data.shard_folder import check_tokenizer_option
from bitgolf.data.verify import verify_data
from bitgolf.errors import Interrupted, UsageError
from bitgolf.report.findings import DataFinding
from bitgolf.report.log import RunLog
from bitgolf.runtime.folder_lock import folder_lock
from bitgolf.runtime.ordered_map import InProcess, OrderedMap, available_cores, local_map
from bitgolf.runtime.ray_cluster import RayCluster
from bitgolf.text.documents import TextFiles
from bitgolf.text.files import check_paths, copy_stream, is_stream
from bitgolf.text.read_report import DEFAULT_OPTIONS, ReadOptions, ReadReport
from bitgolf.tokens.audit import audit_tokenizer, refuse_errors
from bitgolf.tokens.loading import load_tokenizer
from bitgolf.tokens.tokenizer import Tokenizer
from bitgolf.tokens.trainers import ByteLevel, CaseOpsBPE, SentencePieceBPE, TokenizerFile, TokenizerTrainer

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
    workers: OrderedMap | None = None,
    *,
    pattern: str = "",
    force: bool = False,
) -> MadeShards:
    """Tokenize documents and write training and validation shards to `folder`.

    vocab: size of the vocabulary if a tokenizer is trained. tokenizer: file of a tokenizer to use instead. held_out:
    share of the documents for validation. kind: sentencepiece, caseops or bytes; "" for that of the file, otherwise
    sentencepiece. reading: how records are read. workers: processes that do the work; None for this process. pattern: of
    a tiktoken file. force: use a tokenizer whose audit finds an error. Raises `UsageError` for an unknown kind or one
    that contradicts the file, and `BitgolfError` if the tokenizer cannot be used or another process writes to the folder;
    nothing is written then.
    """
    log, findings, workers = RunLog(), list[DataFinding](), workers or InProcess()
    _check_kind(kind, tokenizer, pattern)
    spec = _tokenizer_of_file(tokenizer, kind, pattern) if tokenizer else _trainer(kind, vocab)
    check_paths(text)

    def check(made: Tokenizer, documents: Sequence[bytes]) -> None:
        where = str(tokenizer or "tokenizer")
        found = audit_tokenizer(made, documents)
        findings.extend(refuse_errors(found, force=force, where=where, how_to_force="--force"))

    with folder_lock(folder):
        paths = tuple(str(_readable_twice(path, folder)) for path in text)
        source = TextFiles(paths=paths, **msgspec.structs.asdict(reading))
        log.info(f"{source.size():,} bytes of text, tokenized by {workers.name}")
        work = TextPreparation(source, spec(), spec.to_json(), held_out, workers, log, check, findings.append)
        prepared = _prepare(work, folder)
    log.close()
    return MadeShards(**msgspec.structs.asdict(prepared.manifest), findings=_rows(findings), text=prepared.report)


def _prepare(work: TextPreparation, folder: Path) -> PreparedText:
    """`prepare_text`, where an interrupt says how to go on."""
    try:
        return prepare_text(work, folder)
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted", where=str(folder), hint="the same command continues") from error


def open_workers(processes: int, cluster: str) -> OrderedMap:
    """Return the processes that tokenize: `processes` on this host, 0 for one per core, or those of a Ray cluster.

    Raises `UsageError` if both are given.
    """
    if not cluster:
        return local_map(processes or available_cores())
    if processes:
        raise UsageError("--processes and --cluster exclude each other", hint="leave one of them out")
    return RayCluster(cluster)


def _readable_twice(path: Path, folder: Path) -> Path:
    """The path, or a copy of standard input or of a pipe in the data folder, which is removed at the end."""
    return copy_stream(path, input_folder(folder)) if is_stream(path) else path


def _trainer(kind: str, vocab: int) -> Spec[TokenizerTrainer]:
    if kind == "bytes":
        return part(ByteLevel)
    return part(CaseOpsBPE if kind == "caseops" else SentencePieceBPE, vocab=vocab)


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


def _tokenizer_of_file(path: Path, kind: str, pattern: str) -> Spec[TokenizerTrainer]:
    opened = load_tokenizer(path, pattern=pattern)
    if kind and kind != opened.kind:
        raise UsageError(
            f"--kind is {kind}, but this is a tokenizer of the kind {opened.kind}",
            where=str(path),
            hint="leave --kind out: the contents of the file determine it",
        )
    return part(TokenizerFile, path=str(path.resolve()), vocab=opened.vocab, pattern=pattern)


def check_shards(folder: Path, tokenizer: Path | None = None) -> ShardsCheck:
    """Verify shards: format, sizes, digests, ids, document starts, and overlap of training and validation text.

    tokenizer: file of the tokenizer that made published shards; None for the one in their folder.
    """
    check_tokenizer_option(tokenizer, folder)
    findings = _rows(verify_data(folder, tokenizer, RunLog()))
    return ShardsCheck(folder=str(folder), findings=findings, passes=not any(f.severity == "error" for f in findings))


def _rows(findings: Iterable[DataFinding]) -> list[FindingRow]:
    return [FindingRow(*finding) for finding in findings]
