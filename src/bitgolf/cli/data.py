"""Shards of text: `data make`, `data check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.cli.options import JsonFlag, TextOption, print_result
from bitgolf.errors import UsageError

app = typer.Typer(help="Make and check shards.", no_args_is_help=True)


@app.command()
def make(
    context: typer.Context,
    folder: Path,
    text: TextOption,
    kind: Annotated[
        str, typer.Option("--kind", help="Of tokenizer: sentencepiece, caseops (capitals are operators), bytes.")
    ] = "sentencepiece",
    vocab: Annotated[int, typer.Option("--vocab", min=300, max=65536)] = 1024,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="A tokenizer's file to use instead of training one.")
    ] = None,
    held_out: Annotated[
        float, typer.Option("--held-out", min=0.001, max=0.9, help="Share of documents to hold out, by hash.")
    ] = 0.05,
    as_json: JsonFlag = False,
) -> None:
    """Text -> tokenizer, training and validation shards."""
    from bitgolf.commands.data import make_shards

    source = context.get_parameter_source("vocab")
    if kind == "bytes" and source and source.name == "COMMANDLINE":
        message = "--vocab does nothing with --kind bytes: a byte tokenizer has a token for each byte, and never others"
        raise UsageError(message, hint="leave --vocab out, or choose another --kind")
    made = make_shards(folder, text, vocab, tokenizer, held_out, kind)
    counts = f"{folder}: {made.train.tokens:,} training tokens, {made.val.tokens:,} validation tokens"
    print_result(as_json, made, "\n".join([counts, *(f"{f.severity}: {f.message}" for f in made.findings)]))


@app.command()
def check(folder: Path, as_json: JsonFlag = False) -> None:
    """Check shards: format, sizes, digests, document starts, overlap of training and validation."""
    from bitgolf.commands.data import check_shards

    checked = check_shards(folder)
    print_result(as_json, checked, "\n".join(f"{f.severity}: {f.message}" for f in checked.findings) or "no findings")
    if not checked.passes:
        raise typer.Exit(1)
