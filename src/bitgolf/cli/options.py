"""What commands have in common: options that mean the same in each, and how a result is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

JsonFlag = Annotated[
    bool, typer.Option("--json", help="One JSON document on standard output; all else on standard error.")
]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="PATH=VALUE", help="Edit the recipe at a path; may be repeated.")
]
TextOption = Annotated[
    list[Path], typer.Option("--text", help="Text files or folders: txt, md, py, jsonl; plain, .zst, .gz or .xz.")
]
ShardsOption = Annotated[
    Path | None, typer.Option("--shards", help="A folder of shards with its tokenizer, as `data make` writes it.")
]
DeviceOption = Annotated[
    str,
    typer.Option("--device", metavar="KIND", help="auto, cuda, cpu or mps (experimental). auto: CUDA if there is any."),
]
ArtifactArgument = Annotated[Path, typer.Argument(help="A packed model: artifact.bg, or the run folder that holds it.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that was trained.")]


def print_result(as_json: bool, result: Any, text: str) -> None:
    """Print the result of a command: as JSON, or the text for a person."""
    print(json.dumps(msgspec.to_builtins(result), indent=1, ensure_ascii=False) if as_json else text)
