"""Every registered part of a model, each in a toy model, for the contract tests."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from bitgolf.config.edits import append, replace
from bitgolf.config.registry import import_all_parts
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError
from bitgolf.model.attention.cores.sdpa import SlidingWindowMask
from bitgolf.model.block import Block, LayerSchedule, ResidualTopology
from bitgolf.model.head import Head
from bitgolf.model.interfaces import (
    Activation,
    AttentionCore,
    AttentionMask,
    AttentionOutputPart,
    FeedForward,
    LogitsTransform,
    Norm,
    Objective,
    OutputAdapter,
    QKPart,
    ResidualScale,
    ResidualStreamPart,
    SkipConnection,
    TokenMixer,
    ValuePart,
    WeightTransform,
)
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.linear import Embedding, HeadLinear, Linear
from bitgolf.model.lm import LM
from bitgolf.model.mlp import MLP, SquaredLeakyReLU
from bitgolf.model.part import Part
from helpers.toy import toy_model

Edit = Callable[[Spec[Any]], Spec[Any]]
SKELETON = {LM, Block, Embedding, Linear}  # in every model, so the toy model tests them
EXAMPLES: dict[type, Spec[Any]] = {
    MLP: part(MLP, hidden=40, act=part(SquaredLeakyReLU)),
    SlidingWindowMask: part(SlidingWindowMask, left=3),
}
"""Part -> node, for parts that need arguments; extended by the modules of `contracts/examples`."""

AROUND: dict[type, Edit] = {}
"""Part -> edit of the toy model that must be made before the part is added."""

ACROSS_LAYERS = (LayerSchedule, ResidualTopology, SkipConnection, ValuePart)
"""Kinds of parts that tie layers together, or are built in another way in the first."""

KINDS = (LayerSchedule, SkipConnection, ResidualTopology, Embedding, Head, TokenMixer, FeedForward, Linear, Norm, AttentionCore,
         Activation, ResidualStreamPart, QKPart, ValuePart, AttentionOutputPart, AttentionMask, ResidualScale,
         LogitsTransform, WeightTransform, OutputAdapter)  # fmt: skip
"""Interfaces of parts; one that replaces a part comes before those that add to it."""

QUIET: dict[type, str] = {}
"""Parts whose output equals their input when built, and the reason."""

for found in sorted((Path(__file__).parents[1] / "contracts" / "examples").glob("*.py")):
    contents = runpy.run_path(str(found))
    EXAMPLES |= contents.get("EXAMPLES", {})
    AROUND |= contents.get("AROUND", {})
    QUIET |= contents.get("QUIET", {})


def model_with_part(node: Spec[Any]) -> Spec[LM]:
    """The toy model with a part added at the interface that its base class implements."""
    toy = AROUND.get(cast(type, node.cls), lambda toy: toy)(toy_model())
    try:
        return add_part(toy, node)
    except Exception as error:
        if "changes nothing" in str(error):  # the toy model already has this part
            return toy
        raise


def add_part(model: Spec[LM], node: Spec[Any]) -> Spec[LM]:
    """The model with a part added at the interface that its base class implements."""
    places: dict[type, Edit] = {
        LayerSchedule: lambda model: model.edit("layer_schedule", lambda _: node),
        SkipConnection: lambda model: model.edit("layer_schedule", lambda _: part(UNet, skip=node)),
        ResidualTopology: lambda model: model.edit("layer_schedule", replace(residual=node)),
        Embedding: lambda model: model.edit("embed", lambda _: node),
        Head: lambda model: model.edit("head", lambda _: node),
        TokenMixer: lambda model: model.edit("block", replace(mixer=node)),
        FeedForward: lambda model: model.edit("block", replace(mlp=node)),
        Linear: lambda model: model.edit("block.mlp", replace(linear=node)),
        Norm: lambda model: model.edit("block", replace(norm=node)),
        AttentionCore: lambda model: model.edit("block.mixer", replace(core=node)),
        Activation: lambda model: model.edit("block.mlp", replace(act=node)),
        ResidualStreamPart: lambda model: model.edit("block", append(pre_block=node)),
        QKPart: lambda model: model.edit("block.mixer", append(qk=node)),
        ValuePart: lambda model: model.edit("block.mixer", append(value=node)),
        AttentionOutputPart: lambda model: model.edit("block.mixer", append(post_attention=node)),
        AttentionMask: lambda model: model.edit("block.mixer.core", append(masks=node)),
        ResidualScale: lambda model: model.edit("block", append(residual_scale=node)),
        LogitsTransform: lambda model: model.edit("head", append(logits_transforms=node)),
        WeightTransform: lambda model: model.edit("block.mlp.linear", append(weight_transforms=node)),
        OutputAdapter: lambda model: model.edit("block.mlp.linear", append(adapters=node)),
    }
    return places[kind_of(cast(type, node.cls))](model)


def kind_of(cls: type) -> type:
    """The interface that a part implements, one of `KINDS`."""
    kind = next((kind for kind in KINDS if issubclass(cls, kind)), None)
    assert kind, f"{cls.__name__} implements no interface that the contract tests cover"
    return kind


def models_with_several_parts() -> list[tuple[Spec[LM], list[type]]]:
    """Models of one layer with their added parts: together, all that tie no layers together; each has one of a kind."""
    rest = [cls for cls in all_model_parts() if not issubclass(cls, ACROSS_LAYERS) and cls not in AROUND]
    found = list[tuple[Spec[LM], list[type]]]()
    while rest:
        model, taken = toy_model().set("layers", 1), list[type]()
        for cls in sorted(rest, key=lambda cls: KINDS.index(kind_of(cls))):
            if kind_of(cls) in map(kind_of, taken):
                continue
            try:
                model = add_part(model, example_node(cls))
            except BitgolfError as error:
                if "changes nothing" not in str(error):
                    continue  # the place is in a part that another one has replaced
            taken.append(cls)
        assert taken, f"these parts can be added to no model: {rest}"
        found.append((model, taken))
        rest = [cls for cls in rest if cls not in taken]
    return found


def short_model(cls: type, *, layers: int) -> Spec[LM]:
    """The toy model with an example of this part, of so many layers; of three where the part ties layers together."""
    model = model_with_part(example_node(cls))
    return model if issubclass(cls, ACROSS_LAYERS) else model.set("layers", layers)


def smallest_model(cls: type) -> Spec[LM]:
    """`short_model` of one layer without the toy model's other chain parts, for tests whose time grows with the model."""
    model = short_model(cls, layers=1)
    if cls in AROUND:
        return model
    for path in ("block.pre_block", "block.mixer.qk", "head.logits_transforms"):
        where, _, chain = path.rpartition(".")
        if chain in model[where].kwargs:
            model = model.set(path, tuple(node for node in model[path] if node.cls is cls))
    return model


def all_model_parts() -> list[type]:
    classes = [
        c for c in import_all_parts().values() if issubclass(c, Part) and c.__module__.startswith("bitgolf.model")
    ]
    return [c for c in classes if c not in SKELETON and not issubclass(c, Objective | HeadLinear)]


def example_node(cls: type) -> Spec[Any]:
    if cls.__name__ == "Attention":
        return toy_model()["block.mixer"].replace(kv_heads=4)
    return EXAMPLES.get(cls) or part(cls)
