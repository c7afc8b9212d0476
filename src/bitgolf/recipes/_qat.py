"""The edit that adds fake quantization to a recipe: each matrix is trained with the codec that stores it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from torch import Tensor

from bitgolf.config.build_context import Place
from bitgolf.config.rules import cover
from bitgolf.config.spec import Spec, part, path_pattern
from bitgolf.errors import RecipeError
from bitgolf.grids.row_quantizer import RowQuantizer
from bitgolf.model.build import build_on_meta
from bitgolf.model.interfaces import View
from bitgolf.model.parameters import roles
from bitgolf.model.part import only
from bitgolf.model.qat import FakeQuant
from bitgolf.quantize.codecs.codec import Codec, IntRows
from bitgolf.quantize.codecs.lqer import LowRankRepair
from bitgolf.recipes.recipe import Recipe


class Marker(View):
    """Remembers the node of the recipe that built a matrix, and where that matrix sits."""

    def __init__(self, at: Place, /, *, node: str) -> None:
        super().__init__()
        self.place, self.node = at, node

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
    pattern = path_pattern(where)
    nodes = [path for path, _ in recipe.walk() if pattern.fullmatch(path)]
    if not nodes:
        raise RecipeError(f"the edit {where!r} touches nothing", place="qat")
    for node, matrices in _matrices(recipe, nodes).items():
        recipe = recipe.set(f"{node}.view", (*recipe[f"{node}.view"], *_views(matrices, since)))
    return recipe


def _matrices(recipe: Spec[Recipe], nodes: Sequence[str]) -> dict[str, list[Matrix]]:
    """node -> the matrices that it builds, found by building the model without values."""
    marked = recipe
    for node in nodes:
        marked = marked.set(f"{node}.view", (*recipe[f"{node}.view"], part(Marker, node=node)))
    model = build_on_meta(marked["model"], recipe["tokens.vocab"])
    rules = recipe["quantize"]
    taken = cover(rules, roles(model), place="quantize")
    rule_of = {path: i for i, paths in enumerate(taken) for path in paths}
    found: dict[str, list[Matrix]] = {node: [] for node in nodes}
    for path, module in model.named_modules():
        for view in getattr(module, "view", ()):
            if isinstance(view, Marker) and (i := rule_of.get(f"{path}.weight")) is not None:
                codec = _row_codec(rules[i]["use"], f"quantize.{i}.use")
                found[view.node].append(Matrix(view.place.layer, view.place.name, codec))
    return found


def _row_codec(use: Spec[Codec], place: str) -> Spec[RowQuantizer]:
    """The part of a codec that training can repeat: without statistics and without a low-rank correction."""
    if use.cls is LowRankRepair:
        return _row_codec(use["codec"], f"{place}.codec")
    if not isinstance(use.cls, type) or not issubclass(use.cls, RowQuantizer):
        raise RecipeError(
            f"{use.name} does not round rows to integers, so training cannot repeat it",
            place=place,
            mend="a codec such as IntRows, or matrices that IntRows stores",
        )
    return cast(Spec[RowQuantizer], use.but(solve=None) if issubclass(use.cls, IntRows) else use)


def _views(matrices: Sequence[Matrix], since: float) -> tuple[Spec[View], ...]:
    """One view for all matrices where they have one codec; else views of some layers and names, one for each codec."""
    codecs = list(dict.fromkeys(matrix.codec for matrix in matrices))
    if len(codecs) == 1:
        return (part(FakeQuant, codec=codecs[0], since=since),)
    views: list[Spec[View]] = []
    for codec in codecs:
        own = [matrix for matrix in matrices if matrix.codec == codec]
        layers: dict[tuple[str, ...], list[str]] = {}
        for layer in dict.fromkeys(matrix.layer for matrix in own):
            names = tuple(matrix.name for matrix in own if matrix.layer == layer)
            layers.setdefault(names, []).append(str(layer))
        view = part(FakeQuant, codec=codec, since=since)
        views += [only(",".join(those), view, on=",".join(names)) for names, those in layers.items()]
    return tuple(views)
