"""The stage `prepare`: trains a tokenizer and writes shards; documents are held out by the hash of their content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from bitgolf.config.spec import Spec, part
from bitgolf.data.prepare import prepare_data
from bitgolf.data.shard_folder import adopt_shards, folder_state, open_shard_folder
from bitgolf.errors import UsageError
from bitgolf.pipeline.state import Run
from bitgolf.text.documents import Document, ReadReport, TextFiles, train_validation_split
from bitgolf.tokens.audit import audit_tokenizer
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.tokenizer import Tokenizer

AUDIT_DOCUMENTS = 20
"""Number of held-out documents on which the tokenizer is checked."""


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
    return [source.to_json(), source().cache_key(), run.settings("tokens", "held_out")]


def _source(run: Run) -> Spec[Any]:
    if not run.text_paths:
        return run.recipe().text
    options = {"key": run.reading.key, "skip_null": run.reading.skip_null}
    return part(TextFiles, paths=run.text_paths, **{name: value for name, value in options.items() if value})


def prepare(run: Run) -> PreparedData:
    """Train the tokenizer and write shards, unless the run was given shards, which are read once and checked.

    Raises `UsageError` if the text has too few documents to hold one out.
    """
    if run.shards:
        adopted = adopt_shards(open_shard_folder(run.shards, run.tokenizer), run.data_folder, run.log)
        return PreparedData(data="data", tokens=adopted.train.tokens)
    recipe = run.recipe()
    report = ReadReport()
    training, held_out = train_validation_split(_source(run)().documents(report), recipe.held_out, report)
    run.log.event("read", **msgspec.to_builtins(report))
    for line in report.lines():
        run.log.info(line)
    if not training or not held_out:
        count = len(training) + len(held_out)
        cause = f"the text has {count} document{'s' * (count != 1)}; at least one must be held out for validation"
        raise UsageError(cause, where="--text", hint="give more files, or files with more documents")
    size = sum(len(d.data) for d in held_out)
    run.log.info(f"{len(training):,} training documents, {len(held_out):,} held-out documents ({size:,} bytes)")
    tokenizer = tokenizer_from_bytes(recipe.tokens().train(d.data for d in training))
    _report_tokenizer(run, tokenizer, held_out)
    manifest = prepare_data(training, held_out, tokenizer, run.data_folder)
    tokens = manifest.train.tokens
    run.log.info(f"{tokens:,} training tokens, {manifest.train.encoded_bytes / tokens:.2f} bytes per token")
    return PreparedData(data="data", tokens=tokens)


def _report_tokenizer(run: Run, tokenizer: Tokenizer, held_out: Sequence[Document]) -> None:
    lossless = "lossless" if tokenizer.lossless else "not lossless"
    run.log.info(f"tokenizer: vocabulary {tokenizer.vocab:,}, {lossless}")
    for finding in audit_tokenizer(tokenizer, (d.data for d in held_out[:AUDIT_DOCUMENTS])):
        if finding.rule != "challenge-table":  # scores do not use that table
            run.log.event("warning", message=f"tokenizer: {finding.message}")
