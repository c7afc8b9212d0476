"""The commands on shards: `data make`, `data check`, `data fetch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.cli.completion import TOKENIZERS, one_of
from bitgolf.cli.options import (
    LARGEST_COUNT,
    MOST_PROCESSES,
    JsonFlag,
    KeyOption,
    ShardTokenizerOption,
    SkipNullFlag,
    StrictFlag,
    TextOption,
    at_most,
    print_result,
    start_work,
)
from bitgolf.errors import UsageError, printable
from bitgolf.text.read_report import ReadOptions

KindOption = Annotated[
    str,
    typer.Option(
        "--kind",
        metavar="KIND",
        autocompletion=one_of(*TOKENIZERS),
        help="Kind of tokenizer to train: sentencepiece (the default), caseops (with operators for capitals) or bytes. "
        "The contents of a --tokenizer file determine it.",
    ),
]
TokenizerOption = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        metavar="FILE",
        help="File of a tokenizer to use instead of training one: a SentencePiece model, a tokenizer.json of Hugging Face "
        "(byte-level BPE), a tiktoken file, or one that `data make` wrote.",
    ),
]
PatternOption = Annotated[
    str,
    typer.Option(
        "--pattern",
        metavar="PATTERN",
        help="How a tiktoken file splits text: gpt2, cl100k_base, o200k_base or a regular expression. Needed if it has not "
        "as many tokens as one of these.",
    ),
]
VocabOption = Annotated[
    int,
    typer.Option(
        "--vocab", metavar="N", min=264, max=65536, help="Size of the vocabulary of a tokenizer that is trained."
    ),
]
HeldOutOption = Annotated[
    float,
    typer.Option(
        "--held-out",
        metavar="SHARE",
        min=0.001,
        max=0.9,
        help="Share of the documents to hold out for validation, selected by hash.",
    ),
]
ProcessesOption = Annotated[
    int,
    typer.Option(
        "--processes",
        metavar="N",
        min=0,
        max=MOST_PROCESSES,
        help="Number of processes that tokenize. 0: one for each core.",
    ),
]
ClusterOption = Annotated[
    str,
    typer.Option(
        "--cluster",
        metavar="ADDRESS",
        help="Tokenize on a Ray cluster: its address, or auto for a running one. Needs the extra cluster.",
    ),
]
ForceFlag = Annotated[
    bool,
    typer.Option("--force", help="Use a tokenizer without a piece for the space, which is refused otherwise."),
]

app = typer.Typer(help="Make, fetch and check shards of tokens.", no_args_is_help=True)


@app.command()
def make(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to write shards and tokenizer to.")],
    text: TextOption,
    key: KeyOption = "",
    skip_null: SkipNullFlag = False,
    strict: StrictFlag = False,
    kind: KindOption = "",
    vocab: VocabOption = 1024,
    tokenizer: TokenizerOption = None,
    pattern: PatternOption = "",
    force: ForceFlag = False,
    held_out: HeldOutOption = 0.05,
    processes: ProcessesOption = 0,
    cluster: ClusterOption = "",
    as_json: JsonFlag = False,
) -> None:
    """Train a tokenizer on text, and write training and validation shards.

    The text is read twice, and memory is bounded whatever its size. The same command continues what was interrupted. A
    tokenizer with which scores would be wrong is refused before anything is written.
    """
    start_work()
    from bitgolf.commands.data import make_shards, open_workers

    _check_vocab(context, kind, vocab, tokenizer)
    reading = ReadOptions(key, skip_null, strict)
    with open_workers(processes, cluster) as workers:
        made = make_shards(
            folder, text, vocab, tokenizer, held_out, kind, reading, workers, pattern=pattern, force=force
        )
    counts = f"{printable(str(folder))}: {made.train.tokens:,} training tokens, {made.val.tokens:,} validation tokens"
    print_result(
        as_json, made, "\n".join([*made.text.lines(), counts, *(f"{f.severity}: {f.message}" for f in made.findings)])
    )


def _check_vocab(context: typer.Context, kind: str, vocab: int, tokenizer: Path | None) -> None:
    """Raise `UsageError` if --vocab was given for a tokenizer of bytes or of a file."""
    source = context.get_parameter_source("vocab")
    if not source or source.name != "COMMANDLINE":
        return
    if tokenizer:
        message = f"--vocab does nothing with --tokenizer, got {vocab}: the file has its vocabulary"
        raise UsageError(message, where=str(tokenizer), hint="leave --vocab out, or --tokenizer to train one")
    if kind == "bytes":
        message = (
            f"--vocab does nothing with --kind bytes, got {vocab}: a byte tokenizer has exactly one token per byte"
        )
        raise UsageError(message, hint="leave --vocab out, or choose another --kind")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of the shards.")],
    tokenizer: ShardTokenizerOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Check shards: format, sizes, digests, ids, document starts, and overlap of training and validation.

    The exit status is 1 if a finding is an error.
    """
    start_work()
    from bitgolf.commands.data import check_shards

    checked = check_shards(folder, tokenizer)
    print_result(as_json, checked, "\n".join(f"{f.severity}: {f.message}" for f in checked.findings) or "no findings")
    if not checked.passes:
        raise typer.Exit(1)


SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A published set (see --list), or a dataset repository as owner/name[:folder]."
    ),
]
VariantOption = Annotated[
    str,
    typer.Option(
        "--variant", metavar="NAME", help="Variant of the set, such as sp1024 or sp8192. Default: the first of --list."
    ),
]
TrainShardsOption = Annotated[
    int | None,
    typer.Option(
        "--train-shards",
        min=0,
        callback=at_most(LARGEST_COUNT),
        metavar="K",
        help="Fetch the first K only. Default: all.",
    ),
]
RemoteTokenizerOption = Annotated[
    str, typer.Option("--tokenizer", metavar="PATH", help="Tokenizer in the repository, if none is found by name.")
]
RevisionOption = Annotated[
    str | None,
    typer.Option(
        "--revision", metavar="NAME", help="Branch, tag or commit. Default: that of the first call, else main."
    ),
]


@app.command()
def fetch(
    name: SourceArgument = "",
    variant: VariantOption = "",
    train_shards: TrainShardsOption = None,
    tokenizer: RemoteTokenizerOption = "",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FOLDER", help="Folder to write to. Default: the name of the folder that is fetched."
        ),
    ] = None,
    revision: RevisionOption = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read and verify files again that did not change.")] = False,
    list_sets: Annotated[bool, typer.Option("--list", help="List the published sets, and fetch nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Fetch published shards and their tokenizer from the Hugging Face hub to one folder, for --shards.

    Every file is verified by size, digest and header. The same command continues an interrupted call.

    Needs huggingface_hub (the extra "hub") and takes its variables, such as HF_TOKEN and HF_ENDPOINT (for a mirror).
    """
    if list_sets:
        return _print_published(as_json)
    start_work()
    from bitgolf.commands.fetch import fetch_shards, fetched_text
    from bitgolf.data.hub.fetch import FetchSettings
    from bitgolf.data.hub.published import resolve_source

    source = resolve_source(name, variant)
    fetched = fetch_shards(source, FetchSettings(train_shards, out, revision, tokenizer, verify))
    return print_result(as_json, fetched, fetched_text(fetched))


def _print_published(as_json: bool) -> None:
    """Print the published sets."""
    from bitgolf.commands.fetch import PUBLISHED, published_table

    print_result(as_json, PUBLISHED, published_table())
