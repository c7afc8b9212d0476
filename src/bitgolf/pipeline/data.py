"""The stage `prepare`: text -> tokenizer and shards, with documents held out by the hash of their content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from bitgolf.config.spec import Spec, part
from bitgolf.data.prepare import load_manifest
from bitgolf.data.prepare import prepare as prepare_data
from bitgolf.errors import UsageError
from bitgolf.files import write_bytes, write_json
from bitgolf.pipeline.state import Run
from bitgolf.text.documents import Document, Files, split
from bitgolf.tokens.audit import audit
from bitgolf.tokens.loading import open_tokenizer
from bitgolf.tokens.tokenizer import Tokenizer

AUDIT_DOCUMENTS = 20
"""Number of held-out documents on which the byte table of a tokenizer is checked."""


class PreparedData(msgspec.Struct, frozen=True, kw_only=True):
    """data: the folder of the shards, relative to the run's where it is in it; tokens: of the training shards."""

    data: str
    tokens: int


def prepare_inputs(run: Run) -> list[Any]:
    """What decides the shards: the text (by names, sizes and times of its files), the tokenizer, the split."""
    if run.shards:
        return ["shards", str(run.shards.resolve())]
    source = _source(run)
    return [source.to_json(), source().identity(), run.slice("tokens", "held_out")]


def _source(run: Run) -> Spec[Any]:
    return part(Files, paths=run.text) if run.text else run.recipe().text


def prepare(run: Run) -> PreparedData:
    """Text -> tokenizer and shards. Shards that were given are taken as they are."""
    if run.shards:
        return PreparedData(data=str(run.shards), tokens=load_manifest(run.shards).train.tokens)
    recipe = run.recipe()
    training, held_out = split(_source(run)().documents(), recipe.held_out)
    if not training or not held_out:
        count = len(training) + len(held_out)
        cause = f"the text has {count} document{'s' * (count != 1)}; at least one must be held out for validation"
        raise UsageError(cause, mend="give more files")
    size = sum(len(d.data) for d in held_out)
    run.journal.say(f"{len(training):,} documents to train on, {len(held_out):,} held out ({size:,} bytes)")
    tokenizer = open_tokenizer(recipe.tokens().train(d.data for d in training))
    _report_tokenizer(run, tokenizer, held_out)
    manifest = prepare_data(training, held_out, tokenizer, run.data)
    write_bytes(run.data / "val.raw", b"".join(d.data for d in held_out))
    write_json(run.data / "val.lengths.json", [len(d.data) for d in held_out])
    tokens = manifest.train.tokens
    run.journal.say(f"{tokens:,} training tokens, {manifest.train.raw_bytes / tokens:.2f} bytes each")
    return PreparedData(data="data", tokens=tokens)


def _report_tokenizer(run: Run, tokenizer: Tokenizer, held_out: Sequence[Document]) -> None:
    lossless = "lossless" if tokenizer.lossless else "not lossless"
    run.journal.say(f"tokenizer: vocabulary {tokenizer.vocab:,}, {lossless}")
    for finding in audit(tokenizer, (d.data for d in held_out[:AUDIT_DOCUMENTS])):
        if finding.rule != "challenge-table":  # we never count with it
            run.journal.event("warning", message=f"tokenizer: {finding.message}")
