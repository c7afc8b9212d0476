"""The edit `qat`: adds fake quantization to a recipe, with the codec that will store each matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.glob import compile_glob
from bitgolf.config.rules import assign_to_rules
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.grids.row_quantizer import RowQuantizer
from bitgolf.model.build import build_on_meta
from bitgolf.model.interfaces import WeightTransform
from bitgolf.model.parameters import parameter_roles
from bitgolf.model.part import only
from bitgolf.model.qat import FakeQuant
from bitgolf.quantize.codecs.codec import Codec, IntRows
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.codecs.protected_groups import ProtectedGroups
from bitgolf.recipes.recipe import Recipe


class Marker(WeightTransform):
    """A transform that changes nothing; it records the recipe node that built a matrix, and the build context."""

    def __init__(self, context: BuildContext, /, *, node: str) -> None:
        super().__init__()
        self.context, self.node = context, node

    def forward(self, w: Tensor) -> Tensor:
        return w


class Matrix(NamedTuple):
    """A matrix of the model: its layer, its name in that layer, and its codec."""

    layer: int
    name: str
    codec: Spec[RowQuantizer]


def qat(recipe: Spec[Recipe], *, since: float = 0.0, where: str = "model.block.**.linear") -> Spec[Recipe]:
    """The recipe with fake quantization of the matrices that the nodes at `where` (a path pattern) build.

    Each matrix is rounded by the codec that `quantize` assigns to it. since: fraction of the run after which rounding
    starts. Raises `RecipeError` if a codec does not round rows to integers, or if `where` matches no node.
    """
    pattern = compile_glob(where)
    nodes = [path for path, node in recipe.walk() if pattern.matches(path) and "weight_transforms" in node.kwargs]
    if not nodes:
        hint = "a path pattern of nodes with weight_transforms, such as model.block.**.linear"
        raise RecipeError(f"no node with weight_transforms is at {where!r}", where="qat", hint=hint)
    for node, matrices in _matrices(recipe, nodes).items():
        recipe = recipe.set(
            f"{node}.weight_transforms", (*recipe[f"{node}.weight_transforms"], *_fake_quants(matrices, since))
        )
    return recipe


def _matrices(recipe: Spec[Recipe], nodes: Sequence[str]) -> dict[str, list[Matrix]]:
    """Node -> the matrices that it builds, found by building the model on the meta device."""
    marked = recipe
    for node in nodes:
        marked = marked.set(
            f"{node}.weight_transforms", (*recipe[f"{node}.weight_transforms"], part(Marker, node=node))
        )
    model = build_on_meta(marked["model"], recipe["tokens.vocab"])
    rules = recipe["quantize"]
    taken = assign_to_rules(rules, parameter_roles(model), where="quantize")
    rule_of = {path: i for i, paths in enumerate(taken) for path in paths}
    found: dict[str, list[Matrix]] = {node: [] for node in nodes}
    for path, module in model.named_modules():
        for transform in getattr(module, "weight_transforms", ()):
            if isinstance(transform, Marker) and (i := rule_of.get(f"{path}.weight")) is not None:
                codec = _row_codec(rules[i]["use"], f"quantize.{i}.use")
                context = transform.context
                found[transform.node].append(Matrix(context.layer, context.matrix_name, codec))
    return found


def _row_codec(use: Spec[Codec], where: str) -> Spec[RowQuantizer]:
    """The codec without solver, corrections and protected groups, which training cannot apply at every step."""
    if use.cls in (LQER, ProtectedGroups):
        return _row_codec(use["codec"], f"{where}.codec")
    if not isinstance(use.cls, type) or not issubclass(use.cls, RowQuantizer):
        raise RecipeError(
            f"{use.name} does not round rows to integers, so fake quantization cannot apply it",
            where=where,
            hint="use IntRows for these matrices, or restrict `where` to matrices that IntRows stores",
        )
    return cast(Spec[RowQuantizer], use.replace(solver=None) if issubclass(use.cls, IntRows) else use)


def _fake_quants(matrices: Sequence[Matrix], since: float) -> tuple[Spec[WeightTransform], ...]:
    """One `FakeQuant` if all matrices have the same codec, otherwise one per codec, limited to its layers and names."""
    codecs = list(dict.fromkeys(matrix.codec for matrix in matrices))
    if len(codecs) == 1:
        return (part(FakeQuant, codec=codecs[0], since=since),)
    transforms: list[Spec[WeightTransform]] = []
    for codec in codecs:
        own = [matrix for matrix in matrices if matrix.codec == codec]
        layers: dict[tuple[str, ...], list[str]] = {}
        for layer in dict.fromkeys(matrix.layer for matrix in own):
            names = tuple(matrix.name for matrix in own if matrix.layer == layer)
            layers.setdefault(names, []).append("*" if layer < 0 else str(layer))  # -1: a part outside the blocks
        fake = part(FakeQuant, codec=codec, since=since)
        transforms += [only(",".join(those), fake, on=",".join(names)) for names, those in layers.items()]
    return tuple(transforms)
