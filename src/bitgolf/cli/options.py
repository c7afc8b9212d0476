"""Options that several commands share, and the printing of results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

JsonFlag = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result as one JSON document on standard output, everything else on standard error."
    ),
]
SetOption = Annotated[
    list[str],
    typer.Option("--set", metavar="PATH=VALUE", help="Set the value at a path of the recipe. May be repeated."),
]
TextOption = Annotated[
    list[Path],
    typer.Option(
        "--text",
        help="A text file or a folder: txt, md, py or jsonl, plain or as .zst, .gz or .xz. May be repeated.",
    ),
]
ShardsOption = Annotated[
    Path | None, typer.Option("--shards", help="A folder of shards with their tokenizer, as written by `data make`.")
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device", metavar="KIND", help="Kind of device: auto (CUDA if available), cuda, cpu or mps (experimental)."
    ),
]
ArtifactArgument = Annotated[
    Path, typer.Argument(help="A packed model: the file artifact.bg, or the folder of its run.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a trained run.")]


def print_result(as_json: bool, result: Any, text: str) -> None:
    """Print the result of a command: `result` as JSON, or `text`."""
    print(json.dumps(msgspec.to_builtins(result), indent=1, ensure_ascii=False) if as_json else text)
