"""Bitgolf: train, compress and verify the best language model that fits a byte budget and a time budget.

    import bitgolf

    run = bitgolf.train("quickstart", text="corpus", seconds=60)   # a folder with the artifact, its score and a report
    run.score                                                      # bits per byte by stage
    model = bitgolf.load(run.artifact)
    model.bpb("a text to score")                                   # the referee's score, in bits per byte
    model.generate("Once upon a time", tokens=50)
    model.decompress(model.compress(b"any bytes"))

`recipe`, `part`, `Spec`, `Rule` and the module `parts` are the language of recipes. Errors are `BitgolfError`. Nothing
here imports torch before it is used. docs/api.md describes all of it.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitgolf import parts as parts
    from bitgolf.api.models import Model as Model
    from bitgolf.api.models import load as load
    from bitgolf.api.recipes import load_code as load_code
    from bitgolf.api.recipes import recipe as recipe
    from bitgolf.api.recipes import recipe_names as recipe_names
    from bitgolf.api.runs import RunFolder as RunFolder
    from bitgolf.api.runs import open_run as open_run
    from bitgolf.api.runs import train as train
    from bitgolf.api.sweeps import SweepOutcome as SweepOutcome
    from bitgolf.api.sweeps import sweep as sweep
    from bitgolf.api.tables import Table as Table
    from bitgolf.config.rules import Rule as Rule
    from bitgolf.config.spec import Spec as Spec
    from bitgolf.config.spec import part as part
    from bitgolf.errors import BitgolfError as BitgolfError
    from bitgolf.errors import Stopped as Stopped

__version__ = "0.1.0"

_MODULES = {
    "BitgolfError": "bitgolf.errors",
    "Model": "bitgolf.api.models",
    "Rule": "bitgolf.config.rules",
    "RunFolder": "bitgolf.api.runs",
    "Spec": "bitgolf.config.spec",
    "Stopped": "bitgolf.errors",
    "SweepOutcome": "bitgolf.api.sweeps",
    "Table": "bitgolf.api.tables",
    "load": "bitgolf.api.models",
    "load_code": "bitgolf.api.recipes",
    "open_run": "bitgolf.api.runs",
    "part": "bitgolf.config.spec",
    "recipe": "bitgolf.api.recipes",
    "recipe_names": "bitgolf.api.recipes",
    "sweep": "bitgolf.api.sweeps",
    "train": "bitgolf.api.runs",
}
"""Public name -> the module that has it, which is imported when the name is first used."""

__all__ = [  # noqa: RUF022  # in the order in which they are needed
    "train",
    "load",
    "open_run",
    "sweep",
    "RunFolder",
    "SweepOutcome",
    "Model",
    "Table",
    "recipe",
    "recipe_names",
    "load_code",
    "part",
    "parts",
    "Rule",
    "Spec",
    "BitgolfError",
    "Stopped",
]


if not TYPE_CHECKING:  # a type checker would take any name for one that exists

    def __getattr__(name: str) -> Any:
        from bitgolf.runtime.openmp import limit_spinning

        if name == "parts":
            return importlib.import_module("bitgolf.parts")
        if name not in _MODULES:
            raise AttributeError(f"module 'bitgolf' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
        limit_spinning()  # before torch is imported, as in the command line
        value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
        return value


def __dir__() -> list[str]:
    return [*__all__, "__version__", "__doc__", "__file__", "__name__", "__path__"]
