"""The commands on an artifact: `score`, `compress`, `decompress`, `generate`, `ledger`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
from bitgolf.errors import UsageError
from bitgolf.report.display import current_display
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
ProofFolder = Annotated[
    Path | None, typer.Option("--proof", metavar="FOLDER", help="Prove a score, and write the proof to this folder.")
]
ProofMethod = Annotated[
    list[str],
    typer.Option(
        "--with", metavar="METHOD", autocompletion=complete_method, help="Name of the method to prove, as in `score`."
    ),
]
ProofSettings = Annotated[
    list[str], typer.Option("--set", metavar="SETTING=VALUE", help="Change a setting of the method to prove.")
]
ProofBytes = Annotated[
    int,
    typer.Option(
        "--bytes",
        metavar="N",
        min=0,
        callback=at_most(LARGEST_COUNT),
        help="Number of bytes of the text to prove, from its start; 0 means all.",
    ),
]
ProofSample = Annotated[
    int,
    typer.Option(
        "--sample",
        metavar="N",
        min=0,
        callback=at_most(LARGEST_COUNT),
        help="Number of groups to restore; 0 means all.",
    ),
]
ProofChallenge = Annotated[
    str,
    typer.Option(
        "--challenge",
        metavar="TEXT",
        help="Random string from the verifier. The sampled groups are derived from it and from the commitment.",
    ),
]
ForceFlag = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
ArithmeticFlag = Annotated[
    bool | None,
    typer.Option(
        "--portable/--native",
        help="Compute probabilities that are the same on every machine, or with torch, for machines of this kind only."
        " Default: portable, except for methods that adapt.",
        show_default=False,
    ),
]


def check_json_output(target: Path, as_json: bool) -> None:
    """Raise `UsageError` if both a file and JSON would be written to standard output."""
    if as_json and str(target) == "-":
        raise UsageError("the file is written to standard output already", where="--json", hint="name a file as OUT")


def print_coded(as_json: bool, result: Any, line: str, target: Path) -> None:
    """Print the result of coding; if the file went to standard output, as a message."""
    if str(target) == "-":
        current_display().message(line)
    else:
        print_result(as_json, result, line)


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


@accepts_code
def compress(
    artifact: ArtifactArgument,
    source: Annotated[Path | None, typer.Argument(metavar="IN", help="The file to compress, or -.")] = None,
    target: Annotated[Path | None, typer.Argument(metavar="OUT", help="The compressed file to write, or -.")] = None,
    proof: ProofFolder = None,
    text: TextOption = [],  # noqa: B006
    key: KeyOption = "",
    skip_null: SkipNullFlag = False,
    strict: StrictFlag = False,
    shards: ShardsOption = None,
    tokenizer: ShardTokenizerOption = None,
    methods: ProofMethod = [],  # noqa: B006
    sets: ProofSettings = [],  # noqa: B006
    size: ProofBytes = 0,
    sample: ProofSample = 8,
    challenge: ProofChallenge = "",
    portable: ArithmeticFlag = None,
    force: ForceFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Compress any file losslessly with the model, or prove a score.

    IN and OUT may be `-` for standard input and output. What the model cannot shorten is stored as it is. Proof of a
    score: `compress ARTIFACT --proof FOLDER --text PATH`.
    """
    from bitgolf.commands.artifacts import SourceText, compress_file, prove_score
    from bitgolf.commands.tables import compression_line, proof_line

    if proof and not source:
        given = SourceText(text, shards, ReadOptions(key, skip_null, strict), tokenizer)
        d = prove_score(artifact, proof, given, methods, sets, size, sample, challenge, portable)
        line = proof_line(d)
    elif source and target and not any((proof, text, key, skip_null, strict, shards, tokenizer, methods[1:])):
        method = methods[0] if methods else ""
        check_json_output(target, as_json)
        d = compress_file(artifact, source, target, method=method, edits=sets, portable=portable, force=force)
        print_coded(as_json, d, compression_line(d), target)
        return
    else:
        cause = "give IN and OUT to compress a file, or --proof FOLDER with --text or --shards"
        raise UsageError(cause, hint="compress ARTIFACT IN OUT, or compress ARTIFACT --proof FOLDER --text PATH")
    print_result(as_json, d, line)


@accepts_code
def decompress(
    artifact: ArtifactArgument,
    source: Annotated[Path, typer.Argument(metavar="IN", help="A file written by `compress`, or -.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The restored file to write, or -.")],
    force: ForceFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Restore a file written by `compress`, bit for bit. Damaged files are refused before anything is written."""
    from bitgolf.commands.artifacts import decompress_file

    check_json_output(target, as_json)
    d = decompress_file(artifact, source, target, force=force)
    print_coded(as_json, d, f"{d.bytes_in:,} -> {d.bytes_out:,} bytes", target)


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
