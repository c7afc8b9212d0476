"""The options `--code` and `--any-code`, which load the user's code files before a command runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from bitgolf.cli.options import start_work
from bitgolf.config.code_files import load_code

CodeOption = Annotated[
    list[Path],
    typer.Option(
        "--code",
        metavar="FILE",
        help="Execute a Python file that defines parts or recipes of your own. May be repeated, in the order of their "
        "imports. No code is ever loaded that is not named here or installed.",
    ),
]
AnyCodeOption = Annotated[
    list[Path],
    typer.Option(
        "--any-code",
        metavar="FILE",
        help="Like --code, but a file that differs from the one that the artifact or the run was made with is used, with "
        "a note, instead of refused.",
    ),
]


def accepts_code(command: Callable[..., None]) -> Callable[..., None]:
    """Decorator: add the options `--code` and `--any-code` to a command. The files are loaded before it is called.

    Such a command takes seconds to import torch, so it shows that it starts.
    """

    @wraps(command)
    def load_and_run(*arguments: Any, code: Sequence[Path] = (), any_code: Sequence[Path] = (), **options: Any) -> None:
        start_work()
        load_code(code)
        load_code(any_code, any_digest=True)
        command(*arguments, **options)

    added = {"code": CodeOption, "any_code": AnyCodeOption}
    signature, keyword = inspect.signature(command, eval_str=True), inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, keyword, default=[], annotation=kind) for name, kind in added.items()]
    shown = signature.replace(parameters=[*signature.parameters.values(), *parameters])
    load_and_run.__dict__["__signature__"] = shown
    load_and_run.__annotations__ = {**command.__annotations__, **added}
    return load_and_run
