"""What an artifact can do: `score`, `compress`, `decompress`, `generate`, `ledger`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.cli.options import ArtifactArgument, DeviceOption, JsonFlag, ShardsOption, TextOption, print_result
from bitgolf.errors import UsageError

MethodNames = Annotated[
    list[str], typer.Option("--with", metavar="METHOD", help="By name; may be repeated. Default: the recipe's own.")
]
MethodSettings = Annotated[
    list[str], typer.Option("--set", metavar="SETTING=VALUE", help="Edit every method that has it: window=2048.")
]
DocumentOrder = Annotated[str | None, typer.Option("--order", help="Of documents: corpus, shuffled or longest.")]
OrderSeed = Annotated[int | None, typer.Option("--seed", min=0, help="Of `--order shuffled`.")]
BatchTokens = Annotated[
    int | None,
    typer.Option("--batch", min=1, metavar="TOKENS", help="Read at once. Default: by free memory; 4096 on a CPU."),
]
Processes = Annotated[
    int, typer.Option("--processes", min=1, help="That share the work, one GPU each where there are any.")
]


def score(
    artifact: ArtifactArgument,
    text: TextOption = [],  # noqa: B006
    shards: ShardsOption = None,
    methods: MethodNames = [],  # noqa: B006
    sets: MethodSettings = [],  # noqa: B006
    order: DocumentOrder = None,
    seed: OrderSeed = None,
    batch: BatchTokens = None,
    processes: Processes = 1,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """The referee's score of an artifact: bits per byte, every target once.

    Methods: contiguous, sliding, cached, lora, sgd, phased, mixed; `adapt` is all of the recipe's that adapt. One that
    adapts is scored without adaptation first. The order `longest` is charged the bits of the documents' lengths.
    """
    from bitgolf.commands.artifacts import score_artifact as score_artifact
    from bitgolf.commands.tables import score_table

    document = score_artifact(
        artifact,
        text,
        shards,
        methods=methods,
        edits=sets,
        order=order,
        seed=seed,
        batch=batch,
        processes=processes,
        device=device,
    )
    print_result(as_json, document, score_table(document))


def compress(
    artifact: ArtifactArgument,
    source: Annotated[Path | None, typer.Argument(metavar="IN")] = None,
    target: Annotated[Path | None, typer.Argument(metavar="OUT")] = None,
    proof: Annotated[Path | None, typer.Option("--proof", metavar="FOLDER", help="Prove a score, here.")] = None,
    text: TextOption = [],  # noqa: B006
    shards: ShardsOption = None,
    methods: Annotated[list[str], typer.Option("--with", metavar="METHOD", help="To prove: as in `score`.")] = [],  # noqa: B006
    sets: Annotated[list[str], typer.Option("--set", metavar="SETTING=VALUE", help="Edit the method.")] = [],  # noqa: B006
    size: Annotated[int, typer.Option("--bytes", min=0, help="Prove the text's first so many; 0: all.")] = 0,
    sample: Annotated[int, typer.Option("--sample", min=0, help="Groups to restore; 0: all.")] = 8,
    challenge: Annotated[str, typer.Option("--challenge", help="Of a doubter: decides with the commitment.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Compress any file with the model, losslessly; or prove a score: `compress ARTIFACT --proof FOLDER --text PATH`."""
    from bitgolf.commands.artifacts import compress_file, prove_score

    if proof and not source:
        d = prove_score(artifact, proof, text, shards, methods, sets, size, sample, challenge)
        line = (
            f"{d.bytes:,} bytes coded in {d.coded_bytes:,}, {d.overhead_percent:.3f} % over the claimed"
            f" {d.claimed_bpb:.5f} bpb; {len(d.sampled)} of {d.groups} groups restored by another process"
        )
    elif source and target and not (proof or text or shards or methods or sets):
        d = compress_file(artifact, source, target)
        line = f"{d.bytes_in:,} -> {d.bytes_out:,} bytes, {d.bpb_coded:.4f} bpb coded, {d.bpb_predicted:.4f} predicted"
    else:
        cause = "give IN and OUT to compress a file, or --proof FOLDER with --text or --shards"
        raise UsageError(cause, hint="compress ARTIFACT IN OUT, or ARTIFACT --proof FOLDER …")
    print_result(as_json, d, line)


def decompress(artifact: ArtifactArgument, source: Path, target: Path, as_json: JsonFlag = False) -> None:
    """Restore a file that `compress` wrote, bit for bit."""
    from bitgolf.commands.artifacts import decompress_file

    d = decompress_file(artifact, source, target)
    print_result(as_json, d, f"{d.bytes_in:,} -> {d.bytes_out:,} bytes")


def generate(
    artifact: ArtifactArgument,
    prompt: Annotated[str, typer.Option("--prompt")] = "",
    tokens: Annotated[int, typer.Option("--tokens", min=1)] = 200,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0)] = 0.8,
    top: Annotated[int, typer.Option("--top", min=0, help="Sample among the likeliest so many tokens; 0 is all.")] = 0,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Sample text from the model."""
    from bitgolf.commands.artifacts import generate_text

    document = generate_text(artifact, prompt, tokens=tokens, temperature=temperature, top_k=top, seed=seed)
    print_result(as_json, document, document.text)


def ledger(artifact: ArtifactArgument, as_json: JsonFlag = False) -> None:
    """Where every byte of an artifact went."""
    from bitgolf.commands.artifacts import read_ledger
    from bitgolf.commands.tables import ledger_table

    document = read_ledger(artifact)
    print_result(as_json, document, ledger_table(document))
