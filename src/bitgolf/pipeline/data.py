"""The stage `prepare`: trains a tokenizer and writes shards; documents are held out by the hash of their content.

The new data is written beside that of an earlier call, and takes its place when it is complete and may be trained on.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bitgolf.config.spec import Spec, part
from bitgolf.data.manifest import Manifest, data_digest, is_prepared, load_manifest
from bitgolf.data.prepare import TextPreparation, prepare_text
from bitgolf.data.shard_folder import adopt_shards, folder_state, open_shard_folder
from bitgolf.errors import BitgolfError, CorruptFileError, UsageError
from bitgolf.pipeline.checkpoint_owner import check_finished, check_owner
from bitgolf.pipeline.state import Run
from bitgolf.runtime.ordered_map import available_cores, local_map
from bitgolf.text.documents import TextFiles, TextSample
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
    source, trainer = text_source(run), run.recipe().tokens()
    return [source.to_json(), source().cache_key(), run.settings("tokens", "held_out"), trainer.cache_key()]


def text_source(run: Run) -> Spec[Any]:
    """The text of a run: that of `--text`, otherwise that of the recipe. A sample is one of the text that is given."""
    own = run.recipe().text
    if not run.text_paths:
        return own
    options = msgspec.structs.asdict(run.reading)
    files = part(TextFiles, paths=run.text_paths, **{name: value for name, value in options.items() if value})
    return own.replace(text=files) if own.cls is TextSample else files


def build_data(run: Run) -> None:
    """Check of the stage `prepare`: write the new data to `run.new_data_folder`; the data of the run stays as it is.

    Raises `UsageError` if the folder's checkpoints are of another training, which other data would end, and
    `BitgolfError` if the text or the shards cannot be used. Nothing is left then.
    """
    if _is_intact(run.data_folder):
        check_owner(run, run.data_folder)  # before anything is read: another recipe or seed
    try:
        run.pending.manifest = _adopt_shards(run, run.shards) if run.shards else _prepare_text(run)
        run.pending.same_data = not run.overwrite and _same_data(run)
        check_owner(run, run.new_data_folder)
        if "train" not in run.completed:
            check_finished(run)
    except BitgolfError:
        shutil.rmtree(run.new_data_folder, ignore_errors=True)
        raise


def prepare(run: Run) -> PreparedData:
    """Put the new data in the place of the data of the run."""
    if run.pending.manifest is None:
        build_data(run)
    assert run.pending.manifest
    tokens, run.pending.manifest, run.pending.same_data = run.pending.manifest.train.tokens, None, False
    replaced = run.folder / "data.old"
    shutil.rmtree(replaced, ignore_errors=True)
    if run.data_folder.exists():
        run.data_folder.rename(replaced)
    run.new_data_folder.rename(run.data_folder)
    shutil.rmtree(replaced, ignore_errors=True)
    return PreparedData(data=run.data_folder.name, tokens=tokens)


def _same_data(run: Run) -> bool:
    """Whether the new data is equal to that of the run."""
    return _is_intact(run.data_folder) and data_digest(run.data_folder) == data_digest(run.new_data_folder)


def _is_intact(folder: Path) -> bool:
    """Whether a folder has a manifest that can be read. A damaged one is replaced with the data."""
    try:
        return is_prepared(folder) and bool(load_manifest(folder))
    except CorruptFileError:
        return False


def _adopt_shards(run: Run, folder: Path) -> Manifest:
    """Read given shards once, check them, and write their manifest and tokenizer."""
    source, own = open_shard_folder(folder, run.tokenizer), run.data_folder.resolve()
    if own in (source.place, folder.resolve()):
        raise UsageError("these shards are the data of this run", where=str(folder), hint="leave --shards out")
    return adopt_shards(source, run.new_data_folder, run.log)


def _prepare_text(run: Run) -> Manifest:
    """Train the tokenizer and write shards.

    Raises `BitgolfError` if the text has too few documents to hold one out, or the audit of the tokenizer finds an error.
    """
    recipe, source = run.recipe(), text_source(run)()
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
        manifest, _, report = prepare_text(preparation, run.new_data_folder)
    run.log.event("read", **msgspec.to_builtins(report))
    for line in report.lines():
        run.log.info(line)
    train, val = manifest.train, manifest.val
    run.log.info(
        f"{train.documents:,} training documents, {val.documents:,} held-out documents ({val.encoded_bytes:,} bytes)"
    )
    run.log.info(f"{train.tokens:,} training tokens, {train.encoded_bytes / train.tokens:.2f} bytes per token")
    return manifest


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
