"""The edit that adds fake quantization to a recipe: each matrix is trained with the codec that stores it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.rules import assign_to_rules
from bitgolf.config.spec import Spec, compile_glob, part
from bitgolf.errors import RecipeError
from bitgolf.grids.row_quantizer import RowQuantizer
from bitgolf.model.build import build_on_meta
from bitgolf.model.interfaces import WeightTransform
from bitgolf.model.parameters import parameter_roles
from bitgolf.model.part import only
from bitgolf.model.qat import FakeQuant
from bitgolf.quantize.codecs.codec import Codec, IntRows
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.recipes.recipe import Recipe


class Marker(WeightTransform):
    """Remembers the node of the recipe that built a matrix, and where that matrix sits."""

    def __init__(self, context: BuildContext, /, *, node: str) -> None:
        super().__init__()
        self.place, self.node = context, node

    def forward(self, w: Tensor) -> Tensor:
        return w


class Matrix(NamedTuple):
    """A matrix of the model: its layer, its name in that layer, and the codec that a rule gives it."""

    layer: int
    name: str
    codec: Spec[RowQuantizer]


def qat(recipe: Spec[Recipe], *, since: float = 0.0, where: str = "model.block.**.linear") -> Spec[Recipe]:
    """The recipe with fake quantization, from `since` of the run on, of the matrices that the nodes at `where` build.

    Each matrix is rounded as the rule of `quantize` that takes it will store it. Raises `RecipeError` where that codec does
    not round rows to integers, or no node is at `where`.
    """
    pattern = compile_glob(where)
    nodes = [path for path, _ in recipe.walk() if pattern.fullmatch(path)]
    if not nodes:
        raise RecipeError(f"the edit {where!r} touches nothing", where="qat")
    for node, matrices in _matrices(recipe, nodes).items():
        recipe = recipe.set(
            f"{node}.weight_transforms", (*recipe[f"{node}.weight_transforms"], *_views(matrices, since))
        )
    return recipe


def _matrices(recipe: Spec[Recipe], nodes: Sequence[str]) -> dict[str, list[Matrix]]:
    """node -> the matrices that it builds, found by building the model without values."""
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
        for view in getattr(module, "weight_transforms", ()):
            if isinstance(view, Marker) and (i := rule_of.get(f"{path}.weight")) is not None:
                codec = _row_codec(rules[i]["use"], f"quantize.{i}.use")
                found[view.node].append(Matrix(view.place.layer, view.place.matrix_name, codec))
    return found


def _row_codec(use: Spec[Codec], where: str) -> Spec[RowQuantizer]:
    """The part of a codec that training can repeat: without statistics and without a low-rank correction."""
    if use.cls is LQER:
        return _row_codec(use["codec"], f"{where}.codec")
    if not isinstance(use.cls, type) or not issubclass(use.cls, RowQuantizer):
        raise RecipeError(
            f"{use.name} does not round rows to integers, so training cannot repeat it",
            where=where,
            hint="a codec such as IntRows, or matrices that IntRows stores",
        )
    return cast(Spec[RowQuantizer], use.replace(solver=None) if issubclass(use.cls, IntRows) else use)


def _views(matrices: Sequence[Matrix], since: float) -> tuple[Spec[WeightTransform], ...]:
    """One view for all matrices where they have one codec; else views of some layers and names, one for each codec."""
    codecs = list(dict.fromkeys(matrix.codec for matrix in matrices))
    if len(codecs) == 1:
        return (part(FakeQuant, codec=codecs[0], since=since),)
    views: list[Spec[WeightTransform]] = []
    for codec in codecs:
        own = [matrix for matrix in matrices if matrix.codec == codec]
        layers: dict[tuple[str, ...], list[str]] = {}
        for layer in dict.fromkeys(matrix.layer for matrix in own):
            names = tuple(matrix.name for matrix in own if matrix.layer == layer)
            layers.setdefault(names, []).append(str(layer))
        view = part(FakeQuant, codec=codec, since=since)
        views += [only(",".join(those), view, on=",".join(names)) for names, those in layers.items()]
    return tuple(views)
