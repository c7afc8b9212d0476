"""The commands on shards: `data make`, `data check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.cli.options import JsonFlag, KeyOption, ShardTokenizerOption, SkipNullFlag, TextOption, print_result
from bitgolf.errors import UsageError
from bitgolf.text.read_report import ReadOptions, printable

app = typer.Typer(help="Make and check shards of tokens.", no_args_is_help=True)


@app.command()
def make(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The folder to write shards and tokenizer to.")],
    text: TextOption,
    key: KeyOption = "",
    skip_null: SkipNullFlag = False,
    kind: Annotated[
        str,
        typer.Option(
            "--kind", help="Kind of tokenizer: sentencepiece, caseops (with operators for capitals) or bytes."
        ),
    ] = "sentencepiece",
    vocab: Annotated[
        int, typer.Option("--vocab", min=300, max=65536, help="Size of the vocabulary of a tokenizer that is trained.")
    ] = 1024,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="File of a tokenizer to use instead of training one.")
    ] = None,
    held_out: Annotated[
        float,
        typer.Option(
            "--held-out",
            min=0.001,
            max=0.9,
            help="Share of the documents to hold out for validation, selected by hash.",
        ),
    ] = 0.05,
    as_json: JsonFlag = False,
) -> None:
    """Train a tokenizer on text, and write training and validation shards."""
    from bitgolf.commands.data import make_shards

    _check_vocab(context, kind, vocab)
    made = make_shards(folder, text, vocab, tokenizer, held_out, kind, ReadOptions(key, skip_null))
    counts = f"{printable(str(folder))}: {made.train.tokens:,} training tokens, {made.val.tokens:,} validation tokens"
    print_result(
        as_json, made, "\n".join([*made.text.lines(), counts, *(f"{f.severity}: {f.message}" for f in made.findings)])
    )


def _check_vocab(context: typer.Context, kind: str, vocab: int) -> None:
    """Raise `UsageError` if --vocab was given for a tokenizer of bytes."""
    source = context.get_parameter_source("vocab")
    if kind == "bytes" and source and source.name == "COMMANDLINE":
        message = (
            f"--vocab does nothing with --kind bytes, got {vocab}: a byte tokenizer has exactly one token per byte"
        )
        raise UsageError(message, hint="leave --vocab out, or choose another --kind")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="The folder of the shards.")],
    tokenizer: ShardTokenizerOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Check shards: format, sizes, digests, ids, document starts, and overlap of training and validation.

    The exit status is 1 if a finding is an error.
    """
    from bitgolf.commands.data import check_shards

    checked = check_shards(folder, tokenizer)
    print_result(as_json, checked, "\n".join(f"{f.severity}: {f.message}" for f in checked.findings) or "no findings")
    if not checked.passes:
        raise typer.Exit(1)
