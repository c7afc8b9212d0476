"""The commands `compress` and `decompress`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bitgolf.cli.code_options import accepts_code
from bitgolf.cli.completion import complete_method
from bitgolf.cli.options import (
    ArtifactArgument,
    JsonFlag,
    KeyOption,
    ShardsOption,
    ShardTokenizerOption,
    SkipNullFlag,
    StrictFlag,
    TextOption,
    count_option,
    print_result,
)
from bitgolf.errors import UsageError
from bitgolf.report.display import current_display
from bitgolf.text.read_report import ReadOptions

ProofFolder = Annotated[
    Path | None, typer.Option("--proof", metavar="FOLDER", help="Prove a score, and write the proof to this folder.")
]
ProofMethod = Annotated[
    list[str],
    typer.Option(
        "--with",
        metavar="METHOD",
        autocompletion=complete_method,
        help="Name of the method to code or to prove, as in `score`.",
    ),
]
ProofSettings = Annotated[
    list[str], typer.Option("--set", metavar="SETTING=VALUE", help="Change a setting of this method.")
]
ProofBytes = Annotated[
    int,
    count_option("--bytes", "Number of bytes of the text to prove, from its start; 0 means all."),
]
ProofSample = Annotated[
    int,
    count_option("--sample", "Number of groups to restore; 0 means all."),
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


FORMS = "compress ARTIFACT IN OUT, or compress ARTIFACT --proof FOLDER --text PATH"


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

    given = SourceText(text, shards, ReadOptions(key, skip_null, strict), tokenizer)
    if proof and not source:
        proved = prove_score(artifact, proof, given, methods, sets, size, sample, challenge, portable)
        print_result(as_json, proved, proof_line(proved))
        return
    if not (source and target) or proof or given != SourceText([]) or len(methods) > 1:
        raise UsageError("give IN and OUT to compress a file, or --proof FOLDER to prove a score", hint=FORMS)
    check_json_output(target, as_json)
    words = {"method": "".join(methods), "edits": sets, "portable": portable, "force": force}
    packed = compress_file(artifact, source, target, **words)
    print_coded(as_json, packed, compression_line(packed), target)


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
