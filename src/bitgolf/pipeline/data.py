"""The stage `prepare`: trains a tokenizer and writes shards; documents are held out by the hash of their content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from bitgolf.config.spec import Spec, part
from bitgolf.data.prepare import TextPreparation, prepare_text
from bitgolf.data.shard_folder import adopt_shards, folder_state, open_shard_folder
from bitgolf.pipeline.state import Run
from bitgolf.runtime.ordered_map import available_cores, local_map
from bitgolf.text.documents import TextFiles
from bitgolf.tokens.audit import audit_tokenizer, refuse_errors
from bitgolf.tokens.tokenizer import Tokenizer

BYTES_PER_WORKER = 50_000_000
"""Bytes of text for which another process is started."""


class PreparedData(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of the stage `prepare`.

    data: folder of the manifest and the tokenizer, relative to the run's folder. tokens: number of training tokens.
    """

    data: str
    tokens: int


def prepare_inputs(run: Run) -> list[Any]:
    """Inputs of the shards: the text (names, sizes and times of its files), the tokenizer, the held-out share.

    If the run was given shards: names, sizes and times of their files.
    """
    if run.shards:
        return ["shards", *folder_state(run.shards, run.tokenizer)]
    source = _source(run)
    trainer = run.recipe().tokens()
    return [source.to_json(), source().cache_key(), run.settings("tokens", "held_out"), trainer.cache_key()]


def _source(run: Run) -> Spec[Any]:
    if not run.text_paths:
        return run.recipe().text
    options = msgspec.structs.asdict(run.reading)
    return part(TextFiles, paths=run.text_paths, **{name: value for name, value in options.items() if value})


def prepare(run: Run) -> PreparedData:
    """Train the tokenizer and write shards, unless the run was given shards, which are read once and checked.

    Raises `BitgolfError` if the text has too few documents to hold one out, or the audit of the tokenizer finds an error.
    """
    if run.shards:
        adopted = adopt_shards(open_shard_folder(run.shards, run.tokenizer), run.data_folder, run.log)
        return PreparedData(data="data", tokens=adopted.train.tokens)
    recipe, source = run.recipe(), _source(run)()
    with local_map(_worker_count(source.size())) as workers:
        preparation = TextPreparation(
            source,
            recipe.tokens(),
            run.settings("tokens"),
            recipe.held_out,
            workers,
            run.log,
            check=lambda tokenizer, documents: _check_tokenizer(run, tokenizer, documents),
            note=lambda finding: run.log.info(f"tokenizer: {finding.message}"),
        )
        manifest, _, report = prepare_text(preparation, run.data_folder)
    run.log.event("read", **msgspec.to_builtins(report))
    for line in report.lines():
        run.log.info(line)
    train, val = manifest.train, manifest.val
    run.log.info(
        f"{train.documents:,} training documents, {val.documents:,} held-out documents ({val.encoded_bytes:,} bytes)"
    )
    run.log.info(f"{train.tokens:,} training tokens, {train.encoded_bytes / train.tokens:.2f} bytes per token")
    return PreparedData(data="data", tokens=train.tokens)


def _worker_count(size: int) -> int:
    """One process per core for a large text; for a small one, starting processes takes longer than they save."""
    return min(available_cores(), 1 + size // BYTES_PER_WORKER)


def _check_tokenizer(run: Run, tokenizer: Tokenizer, held_out: Sequence[bytes]) -> None:
    """Log what a tokenizer is and the findings of its audit. Raises `BitgolfError` if it cannot be used."""
    lossless = "lossless" if tokenizer.lossless else "not lossless"
    run.log.info(f"tokenizer: vocabulary {tokenizer.vocab:,}, {lossless}")
    findings, force = audit_tokenizer(tokenizer, held_out), run.recipe().tokens().force
    for finding in refuse_errors(findings, force=force, where="tokens", how_to_force="--set tokens.force=true"):
        run.log.event("warning", message=f"tokenizer: {finding.message}")
