"""Every registered part of a model, each with a toy model around it: what the contract tests run over."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from bitgolf.config.edits import append, but
from bitgolf.config.registry import import_all_parts
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.cores.sdpa import Window
from bitgolf.model.block import Block, Depth, Wiring
from bitgolf.model.head import Head
from bitgolf.model.interfaces import (
    Activation,
    Add,
    AfterPart,
    Branch,
    Cap,
    Core,
    Feed,
    Mask,
    Mixer,
    Norm,
    Objective,
    QKPart,
    Skip,
    StreamPart,
    ValuePart,
    View,
)
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.linear import Embedding, HeadLinear, Linear
from bitgolf.model.lm import LM
from bitgolf.model.mlp import MLP, LeakySquared
from bitgolf.model.part import Part
from helpers.toy import toy_model

Edit = Callable[[Spec[Any]], Spec[Any]]
SKELETON = {LM, Block, Embedding, Linear}  # in every model: the toy itself tests them
EXAMPLES: dict[type, Spec[Any]] = {
    MLP: part(MLP, hidden=40, act=part(LeakySquared)),
    Window: part(Window, width=3),
}
"""A node for each part that needs arguments, here and in the modules of `contracts/examples`."""

AROUND: dict[type, Edit] = {}
"""What a part needs around it: an edit of the toy model, before the part goes in."""

QUIET: dict[type, str] = {}
"""Parts that, alone and as built, change nothing, and why."""

for found in sorted((Path(__file__).parents[1] / "contracts" / "examples").glob("*.py")):
    contents = runpy.run_path(str(found))
    EXAMPLES |= contents.get("EXAMPLES", {})
    AROUND |= contents.get("AROUND", {})
    QUIET |= contents.get("QUIET", {})


def sockets(node: Spec[Any]) -> Spec[LM]:
    """The toy model with this part in the socket that its base class names."""
    places: dict[type, tuple[str, Edit]] = {
        StreamPart: ("block", append(enter=node)),
        QKPart: ("block.mixer", append(qk=node)),
        ValuePart: ("block.mixer", append(value=node)),
        AfterPart: ("block.mixer", append(after=node)),
        Mask: ("block.mixer.core", append(masks=node)),
        Core: ("block.mixer", but(core=node)),
        Mixer: ("block", but(mixer=node)),
        Feed: ("block", but(mlp=node)),
        Activation: ("block.mlp", but(act=node)),
        Branch: ("block", append(branch=node)),
        Norm: ("block", but(norm=node)),
        Cap: ("head", append(caps=node)),
        Head: ("head", lambda _: node),
        Skip: ("depth", lambda _: part(UNet, skip=node)),
        Wiring: ("depth", but(wiring=node)),
        View: ("block.mlp.linear", append(view=node)),
        Add: ("block.mlp.linear", append(add=node)),
        Depth: ("depth", lambda _: node),
        Embedding: ("embed", lambda _: node),
    }
    for base, (where, change) in places.items():
        if issubclass(node.cls, base):  # type: ignore[arg-type]
            toy = AROUND.get(cast(type, node.cls), lambda toy: toy)(toy_model())
            try:
                return toy.edit(where, change)
            except Exception as error:
                if "changes nothing" in str(error):  # the toy already holds this very part
                    return toy
                raise
    raise AssertionError(f"{node.cls.__name__} fits no socket of the contract suite")


def collected() -> list[type]:
    classes = [
        c for c in import_all_parts().values() if issubclass(c, Part) and c.__module__.startswith("bitgolf.model")
    ]
    return [c for c in classes if c not in SKELETON and not issubclass(c, Objective | HeadLinear)]


def node(cls: type) -> Spec[Any]:
    if cls.__name__ == "Attention":
        return toy_model()["block.mixer"].but(kv_heads=4)
    return EXAMPLES.get(cls) or part(cls)
