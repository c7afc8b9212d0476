"""What commands have in common: options that mean the same in each, and how a result is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output; all else on standard error.")]
Sets = Annotated[
    list[str], typer.Option("--set", metavar="PATH=VALUE", help="Edit the recipe at a path; may be repeated.")
]
Texts = Annotated[
    list[Path], typer.Option("--text", help="Text files or folders: txt, md, py, jsonl; plain, .zst, .gz or .xz.")
]
Shards = Annotated[
    Path | None, typer.Option("--shards", help="A folder of shards with its tokenizer, as `data make` writes it.")
]
Device = Annotated[
    str,
    typer.Option("--device", metavar="KIND", help="auto, cuda, cpu or mps (experimental). auto: CUDA if there is any."),
]
Artifact = Annotated[Path, typer.Argument(help="A packed model: artifact.bg, or the run folder that holds it.")]
Trained = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that was trained.")]


def emit(as_json: bool, document: Any, text: str) -> None:
    """Print the result of a command: as JSON, or the text for a person."""
    print(json.dumps(msgspec.to_builtins(document), indent=1, ensure_ascii=False) if as_json else text)
