"""The language of recipes: names and types are checked when a recipe is written, edits must act."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.config.build_context import Place
from bitgolf.config.edits import append, but, diff, without
from bitgolf.config.parse import from_json, set_text
from bitgolf.config.spec import Spec, context_size, part, schema
from bitgolf.errors import RecipeError
from bitgolf.model.inits import Zeros
from bitgolf.model.mlp import MLP, LeakySquared, ReluSquared
from bitgolf.model.residual import MixX0
from bitgolf.optim.muon import Muon
from bitgolf.recipes import describe, get, names
from bitgolf.recipes.identity import identity


@pytest.fixture
def recipe() -> Spec:
    return get("baseline")


def test_a_wrong_name_fails_when_the_recipe_is_written() -> None:
    with pytest.raises(RecipeError, match="did you mean 'slope'"):
        part(LeakySquared, slop=0.3)  # type: ignore[call-arg]


@pytest.mark.parametrize("value", ["0.3", None, (0.3,), True])
def test_a_wrong_type_fails_when_the_recipe_is_written(value: object) -> None:
    with pytest.raises(RecipeError, match=r"LeakySquared\.slope: expected float"):
        part(LeakySquared, slope=value)  # type: ignore[arg-type]


def test_a_part_in_the_wrong_socket_is_an_error() -> None:
    with pytest.raises(RecipeError, match="Activation"):
        part(MLP, hidden=8, act=part(MixX0))  # type: ignore[arg-type]


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(RecipeError, match="'hidden' is missing"):
        part(MLP, act=part(ReluSquared))  # type: ignore[call-arg]


def test_a_class_without_a_constructor_is_given_the_context_of_its_socket() -> None:
    """Every part of a model is told where it sits, also one that does not ask; a start value is told nothing."""
    assert (context_size(ReluSquared), dict(schema(ReluSquared))) == (1, {})
    assert (context_size(Zeros), dict(schema(Zeros))) == (0, {})
    assert isinstance(part(ReluSquared)(Place(vocab=2)), ReluSquared) and isinstance(part(Zeros)(), Zeros)
    with pytest.raises(RecipeError, match="ReluSquared cannot stand here"):
        part(ReluSquared)()


def test_nodes_are_immutable() -> None:
    node = part(LeakySquared)
    with pytest.raises(TypeError):
        node.kwargs["slope"] = 1.0  # type: ignore[index]


@pytest.mark.parametrize("name", names())
def test_every_recipe_survives_json_with_the_same_hash(name: str) -> None:
    recipe = get(name)
    again = from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe and again.hash == recipe.hash and recipe["name"] == name and describe(name)


def test_the_hash_is_that_of_what_a_recipe_does(recipe: Spec) -> None:
    assert identity(recipe.but(name="other", published=None)) == identity(recipe)
    assert identity(recipe.set("train.rows", 256)) != identity(recipe)


def test_an_unknown_path_names_the_nearest(recipe: Spec) -> None:
    with pytest.raises(RecipeError, match=r"model\.block\.mlp\.hidden"):
        recipe.set("model.block.mlp.hiden", 3)


def test_edits_act_or_fail(recipe: Spec) -> None:
    leaky = recipe.edit("**.mlp", but(act=part(LeakySquared, slope=0.3)))
    assert leaky["model.block.mlp.act.slope"] == 0.3
    assert recipe.edit(Muon, but(lr=0.01))["train.optim.0.use.lr"] == 0.01
    with pytest.raises(RecipeError, match="touches nothing"):
        recipe.edit("**.mixr", but(heads=4))
    with pytest.raises(RecipeError, match="changes nothing"):
        recipe.edit("**.mlp", but(hidden=recipe["model.block.mlp.hidden"]))


def test_chains_grow_and_shrink(recipe: Spec) -> None:
    more = recipe.edit("**.block", append(enter=part(MixX0)))
    assert len(more["model.block.enter"]) == 2
    assert more.edit("**.block", without("enter", MixX0))["model.block.enter"] == ()


def test_diff_lists_every_path_that_differs(recipe: Spec) -> None:
    other = recipe.set("train.rows", 8).set("model.block.mlp.act", part(LeakySquared))
    found = {path: (a, b) for path, a, b in diff(recipe, other)}
    assert found == {
        "train.rows": (512, 8),
        "model.block.mlp.act": ("ReluSquared", "LeakySquared"),
        "model.block.mlp.act.slope": (None, 0.5),
    }
    assert diff(recipe, recipe) == []


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("train.rows=8", "train.rows", 8),
        ("train.clip=1", "train.clip", 1.0),
        ("train.clip=-0.5e-1", "train.clip", -0.05),
        ("train.compile=off", "train.compile", "off"),
        ("name=other-name", "name", "other-name"),
        ("average=none", "average", None),
        ("model.head.caps=()", "model.head.caps", ()),
        ("model.block.mlp.act=LeakySquared(slope=0.25)", "model.block.mlp.act.slope", 0.25),
        ("model.head.caps=(Softcap(cap=15), Softcap)", "model.head.caps.0.cap", 15.0),
    ],
)
def test_values_from_a_command_line(recipe: Spec, text: str, path: str, value: object) -> None:
    assert set_text(recipe, text)[path] == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.rows", "PATH=VALUE"),
        ("train.rows=many", "expected int|no part called"),
        ("train.rows=1.5", "expected int"),
        ("train.compile=perhaps", "one of"),
        ("model.block.mlp.act=LeakySquard", "did you mean LeakySquared"),
        ("model.block.mlp.act=MixX0", "Activation"),
        ("train.rows=__import__('os')", "neither a number|no part called"),
        ("nowhere.at=1", "there is no 'nowhere"),
    ],
)
def test_bad_values_from_a_command_line_name_the_place(recipe: Spec, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        set_text(recipe, text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda v: (
        st.lists(v, max_size=3)
        | st.dictionaries(st.sampled_from(["part", "slope", "act", "hidden", "x"]), v, max_size=3)
    ),
    max_leaves=8,
)


@given(json_values)
def test_any_json_is_a_recipe_or_one_clear_error(value: object) -> None:
    try:
        node = from_json(value)
    except RecipeError:
        return
    assert isinstance(node, Spec)


def test_json_that_is_too_large_or_deep_is_refused() -> None:
    deep: object = 0
    for _ in range(60):
        deep = [deep]
    with pytest.raises(RecipeError, match="too large"):
        from_json({"part": "LeakySquared", "slope": deep})
