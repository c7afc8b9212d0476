"""The commands on an artifact: `score`, `generate`, `ledger`."""

from __future__ import annotations

from typing import Annotated

import typer

from bitgolf.cli.code_options import accepts_code
from bitgolf.cli.completion import ORDERS, complete_method, one_of
from bitgolf.cli.on_hosts import group_size
from bitgolf.cli.options import (
    LARGEST_COUNT,
    LARGEST_SEED,
    MOST_PROCESSES,
    ArtifactArgument,
    DeviceOption,
    JsonFlag,
    KeyOption,
    ShardsOption,
    ShardTokenizerOption,
    SkipNullFlag,
    StrictFlag,
    TextOption,
    at_most,
    print_result,
    start_work,
    write_output,
    write_sampled,
)
from bitgolf.text.read_report import ReadOptions

MethodNames = Annotated[
    list[str],
    typer.Option(
        "--with",
        metavar="METHOD",
        autocompletion=complete_method,
        help="Name of a scoring method. May be repeated. Default: those of the recipe.",
    ),
]
MethodSettings = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="SETTING=VALUE", help="Change a setting in all methods that have it, such as window=2048."
    ),
]
DocumentOrder = Annotated[
    str | None,
    typer.Option(
        "--order",
        metavar="ORDER",
        autocompletion=one_of(*ORDERS),
        help="Order of the documents: corpus, shuffled or longest.",
    ),
]
OrderSeed = Annotated[
    int | None,
    typer.Option(
        "--seed", metavar="N", min=0, callback=at_most(LARGEST_SEED), help="Random seed of `--order shuffled`."
    ),
]
BatchTokens = Annotated[
    int | None,
    typer.Option(
        "--batch", min=1, max=2**24, metavar="TOKENS", help="Tokens per batch. Default: by free memory; 4096 on a CPU."
    ),
]
Processes = Annotated[
    int,
    typer.Option(
        "--processes",
        metavar="N",
        min=1,
        max=MOST_PROCESSES,
        help="Number of processes, one GPU each on a GPU machine.",
    ),
]


@accepts_code
def score(
    artifact: ArtifactArgument,
    text: TextOption = [],  # noqa: B006
    key: KeyOption = "",
    skip_null: SkipNullFlag = False,
    strict: StrictFlag = False,
    shards: ShardsOption = None,
    tokenizer: ShardTokenizerOption = None,
    methods: MethodNames = [],  # noqa: B006
    sets: MethodSettings = [],  # noqa: B006
    order: DocumentOrder = None,
    seed: OrderSeed = None,
    batch: BatchTokens = None,
    processes: Processes = 1,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Score an artifact on text: bits per byte, with every target scored exactly once.

    Methods: contiguous, sliding, cached, lora, sgd, phased, mixed, tilted; `adapt` stands for all methods of the recipe
    that adapt. A method that adapts is also scored without adaptation. With the order `longest`, the bits of the
    document lengths are added to the score.
    """
    from bitgolf.commands.artifacts import SourceText, score_artifact
    from bitgolf.commands.tables import score_table

    document = score_artifact(
        artifact,
        SourceText(text, shards, ReadOptions(key, skip_null, strict), tokenizer),
        methods=methods,
        edits=sets,
        order=order,
        seed=seed,
        batch=batch,
        processes=group_size(processes, "--processes"),
        device=device,
    )
    print_result(as_json, document, score_table(document))


PromptOption = Annotated[str, typer.Option("--prompt", metavar="TEXT", help="Text to continue.")]
SampledTokensOption = Annotated[
    int,
    typer.Option("--tokens", metavar="N", min=1, callback=at_most(LARGEST_COUNT), help="Number of tokens to sample."),
]
TemperatureOption = Annotated[
    float,
    typer.Option(
        "--temperature", metavar="X", min=0.0, max=100.0, help="Sampling temperature; 0 takes the likeliest token."
    ),
]
TopOption = Annotated[
    int,
    typer.Option(
        "--top",
        metavar="N",
        min=0,
        callback=at_most(LARGEST_COUNT),
        help="Sample among this many of the likeliest tokens; 0 means all.",
    ),
]
SamplingSeedOption = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, callback=at_most(LARGEST_SEED), help="Random seed of sampling.")
]


@accepts_code
def generate(
    artifact: ArtifactArgument,
    prompt: PromptOption = "",
    tokens: SampledTokensOption = 200,
    temperature: TemperatureOption = 0.8,
    top: TopOption = 0,
    seed: SamplingSeedOption = 0,
    as_json: JsonFlag = False,
) -> None:
    """Sample text from the model. It is printed while it is sampled."""
    from bitgolf.commands.artifacts import generate_text, stream_text

    if as_json:
        document = generate_text(artifact, prompt, tokens=tokens, temperature=temperature, top_k=top, seed=seed)
        print_result(as_json, document, "")
        return
    for piece in stream_text(artifact, prompt, tokens=tokens, temperature=temperature, top_k=top, seed=seed):
        write_sampled(piece)
    write_output("\n")


def ledger(artifact: ArtifactArgument, as_json: JsonFlag = False) -> None:
    """List the sections of an artifact with their bytes, which add up to the size of the file."""
    start_work()
    from bitgolf.commands.artifacts import read_ledger
    from bitgolf.commands.tables import ledger_table

    document = read_ledger(artifact)
    print_result(as_json, document, ledger_table(document))
