"""Every numeric setting of every registered part has a range, and a value outside it is refused where it is written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest

from bitgolf.config.parse import apply_assignment, from_json
from bitgolf.config.ranges import Range
from bitgolf.config.registry import import_all_parts
from bitgolf.config.spec import Spec, schema
from bitgolf.config.validate import coerce
from bitgolf.errors import RecipeError
from bitgolf.recipes import get_recipe, recipe_names
from helpers.toy import toy_recipe

NUMERIC = [
    (cls, key, annotation)
    for cls in import_all_parts().values()
    for key, (annotation, _) in schema(cls).items()
    if "int" in str(annotation) or "float" in str(annotation)
]


def ranges(annotation: Any) -> Iterator[Range | None]:
    """The range of each number in an annotation; None for a number without one."""
    if annotation in (int, float):
        yield None
    elif get_origin(annotation) is Annotated:
        base, *metadata = get_args(annotation)
        found = [item for item in metadata if isinstance(item, Range)]
        yield from found if found and base in (int, float) else ranges(base)
    elif get_origin(annotation) is not Literal:
        for inner in get_args(annotation):
            yield from ranges(inner)


def numbers_outside(wanted: Range) -> list[float]:
    """Numbers next to the ends of a range that do not belong to it, of the type of the ends, NaN and infinities."""
    below = wanted.low if wanted.above else wanted.low - 1
    above = wanted.high if wanted.below else wanted.high * 2 + 1
    return [below, above, math.nan, math.inf, -math.inf]


def nested(annotation: Any, number: float) -> Any:
    """`number` in the shape that the annotation wants: itself, or in tuples, at every place."""
    if get_origin(annotation) is Annotated or annotation in (int, float):
        base = get_args(annotation)[0] if get_args(annotation) else annotation
        return base(number) if math.isfinite(number) else number
    if get_origin(annotation) is tuple:
        return tuple(nested(inner, number) for inner in get_args(annotation) if inner is not ...)
    return nested(get_args(annotation)[0], number)  # of an optional number


@pytest.mark.parametrize(("cls", "key", "annotation"), NUMERIC, ids=[f"{c.__name__}.{k}" for c, k, _ in NUMERIC])
def test_a_number_outside_the_range_is_refused_with_path_and_range(cls: type, key: str, annotation: Any) -> None:
    found = list(ranges(annotation))
    assert None not in found, f"{cls.__name__}.{key} has no range: annotate it with one of config.ranges"
    for number in numbers_outside(found[0]) if found and found[0] else []:
        value = nested(annotation, number)
        with pytest.raises(RecipeError) as caught:
            coerce(value, annotation, f"a.path.{key}")
        assert caught.value.where.startswith(f"a.path.{key}")
        if type(number) is type(found[0].low if found[0] else 0):
            assert str(found[0]) in caught.value.message or "expected" in caught.value.message


def test_the_walk_is_complete() -> None:
    assert len(NUMERIC) > 200


def test_a_range_contains_its_ends_unless_they_are_excluded() -> None:
    assert 0 in Range(0, 1) and 1 in Range(0, 1) and 2 not in Range(0, 1) and -1 not in Range(0, 1)
    assert 0 not in Range(0, 1, above=True) and 1 not in Range(0, 1, below=True)
    assert all(number not in Range(-1, 1) for number in (math.nan, math.inf, -math.inf))
    assert str(Range(1, 1000)) == "from 1 to 1,000"
    assert str(Range(0, 1, above=True)) == "above 0 and at most 1"
    assert str(Range(0, 1, below=True)) == "at least 0 and below 1"


@pytest.mark.parametrize("name", recipe_names())
def test_published_recipes_are_within_all_ranges(name: str) -> None:
    assert from_json(get_recipe(name).to_json()) == get_recipe(name)


@pytest.mark.parametrize(
    "assignment",
    [
        "train.seconds=-1",
        "train.seconds=nan",
        "train.seconds=inf",
        "train.steps=-5",
        f"train.steps={'9' * 30}",
        "train.rows=0",
        "train.grad_clip=-inf",
        "model.layers=0",
        "model.dim=-3",
        "tokens.vocab=3",
        "tokens.vocab=1000000",
        "held_out=0",
        "held_out=1.0",
        "train.optim.0.use.lr=1e30",
        "train.optim.0.use.betas=(0.9,1.0)",
        "score.0.window=16777216",
        "score.1.stride=0",
        "quantize.1.use.bits=0",
        "pack.cap=0",
        "score.0=DocumentLoRA(rank=16777216)",
    ],
)
def test_an_assignment_out_of_range_names_its_path(assignment: str) -> None:
    path = assignment.partition("=")[0]
    with pytest.raises(RecipeError) as caught:
        apply_assignment(adam_first(toy_recipe()), assignment)
    assert caught.value.where.startswith(path)
    assert "must be" in caught.value.message and caught.value.message.count("got") == 1


def adam_first(recipe: Spec[Any]) -> Spec[Any]:
    """The recipe with the rule of Adam first: its order is irrelevant, as nothing is trained."""
    rules = recipe["train.optim"]
    return recipe.set("train.optim", tuple(sorted(rules, key=lambda rule: rule["use"].name != "Adam")))


def test_a_stored_recipe_out_of_range_names_the_path() -> None:
    stored = toy_recipe().to_json()
    stored["model"]["block"]["mlp"]["hidden"] = 0
    with pytest.raises(RecipeError) as caught:
        from_json(stored)
    assert caught.value.where == "model.block.mlp.hidden" and "from 1 to 65,536, got 0" in caught.value.message
