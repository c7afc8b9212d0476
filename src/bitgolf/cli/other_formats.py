"""The commands that write artifacts for other programs: `to-hf`, `to-web`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.cli.code_options import accepts_code
from bitgolf.cli.options import ArtifactArgument, JsonFlag, print_result, start_work

HuggingFaceTarget = Annotated[
    Path, typer.Argument(metavar="DIR", help="The folder to write, which must not exist or must be empty.")
]
PushOption = Annotated[
    str,
    typer.Option(
        "--push",
        metavar="OWNER/NAME",
        help="Also commit the folder to this model repository of the Hugging Face hub, which is created if needed.",
    ),
]
PageTarget = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the page, which is its file index.html.")]
PrivateFlag = Annotated[bool, typer.Option("--private", help="A repository that is created is private.")]


@accepts_code
def to_hf(
    artifact: ArtifactArgument,
    folder: HuggingFaceTarget,
    push: PushOption = "",
    private: PrivateFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a folder that the transformers library loads: weights, tokenizer, code of the model, and a model card.

    The logits are those of the artifact. The code needs transformers and torch, and not bitgolf.
    """
    start_work()
    from bitgolf.commands.to_hf import to_hf as write_folder
    from bitgolf.commands.to_hf import to_hf_lines

    result = write_folder(artifact, folder, push=push, private=private)
    print_result(as_json, result, to_hf_lines(result))


@accepts_code
def to_web(
    artifact: ArtifactArgument,
    folder: PageTarget,
    as_json: JsonFlag = False,
) -> None:
    """Write a web page that runs the model: one file that works offline."""
    from bitgolf.commands.tables import web_page_line
    from bitgolf.commands.to_web import write_web_page

    document = write_web_page(artifact, folder)
    print_result(as_json, document, web_page_line(document))
