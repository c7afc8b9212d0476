"""Tests of recipe trees: names and types are checked when a node is made, and edits must have an effect."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.average.swa import SWA
from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import ABSENT, append, diff, remove, replace
from bitgolf.config.parse import apply_assignment, from_json
from bitgolf.config.spec import Spec, count_context_arguments, part, schema
from bitgolf.errors import RecipeError
from bitgolf.model.inits import ZeroInit
from bitgolf.model.mlp import MLP, SquaredLeakyReLU, SquaredReLU
from bitgolf.model.residual import MixX0
from bitgolf.optim.muon import Muon
from bitgolf.recipes import describe, get_recipe, recipe_names
from bitgolf.recipes.identity import recipe_hash


@pytest.fixture
def recipe() -> Spec:
    return get_recipe("baseline")


def test_a_wrong_name_fails_when_the_recipe_is_written() -> None:
    with pytest.raises(RecipeError, match="did you mean 'slope'"):
        part(SquaredLeakyReLU, slop=0.3)  # type: ignore[call-arg]


@pytest.mark.parametrize("value", ["0.3", None, (0.3,), True])
def test_a_wrong_type_fails_when_the_recipe_is_written(value: object) -> None:
    with pytest.raises(RecipeError, match=r"SquaredLeakyReLU\.slope: expected a number"):
        part(SquaredLeakyReLU, slope=value)  # type: ignore[arg-type]


def test_a_part_in_the_wrong_socket_is_an_error() -> None:
    with pytest.raises(RecipeError, match="Activation"):
        part(MLP, hidden=8, act=part(MixX0))  # type: ignore[arg-type]


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(RecipeError, match="'hidden' is missing"):
        part(MLP, act=part(SquaredReLU))  # type: ignore[call-arg]


def test_a_class_without_a_constructor_is_given_the_context_of_its_socket() -> None:
    """A part of a model takes a `BuildContext`, even without a constructor of its own; an initializer takes none."""
    assert (count_context_arguments(SquaredReLU), dict(schema(SquaredReLU))) == (1, {})
    assert (count_context_arguments(ZeroInit), dict(schema(ZeroInit))) == (0, {})
    assert isinstance(part(SquaredReLU)(BuildContext(vocab=2)), SquaredReLU) and isinstance(part(ZeroInit)(), ZeroInit)
    with pytest.raises(RecipeError, match=r"SquaredReLU cannot be used here: it needs 1 context argument\(s\), got 0"):
        part(SquaredReLU)()


def test_nodes_are_immutable() -> None:
    node = part(SquaredLeakyReLU)
    with pytest.raises(TypeError):
        node.kwargs["slope"] = 1.0  # type: ignore[index]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_survives_json_with_the_same_hash(name: str) -> None:
    recipe = get_recipe(name)
    again = from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe and again.hash == recipe.hash and recipe().name == name and describe(name)


def test_the_hash_is_that_of_what_a_recipe_does(recipe: Spec) -> None:
    assert recipe_hash(recipe.replace(name="other", published=None)) == recipe_hash(recipe)
    assert recipe_hash(recipe.set("train.rows", 256)) != recipe_hash(recipe)


def test_an_unknown_path_names_the_nearest(recipe: Spec) -> None:
    with pytest.raises(RecipeError, match=r"model\.block\.mlp\.hidden"):
        recipe.set("model.block.mlp.hiden", 3)


def test_edits_act_or_fail(recipe: Spec) -> None:
    leaky = recipe.edit("**.mlp", replace(act=part(SquaredLeakyReLU, slope=0.3)))
    assert leaky["model.block.mlp.act.slope"] == 0.3
    assert recipe.edit(Muon, replace(lr=0.01))["train.optim.0.use.lr"] == 0.01
    with pytest.raises(RecipeError, match="matches no part"):
        recipe.edit("**.mixr", replace(heads=4))
    with pytest.raises(RecipeError, match="changes nothing"):
        recipe.edit("**.mlp", replace(hidden=recipe["model.block.mlp.hidden"]))


def test_chains_grow_and_shrink(recipe: Spec) -> None:
    more = recipe.edit("**.block", append(pre_block=part(MixX0)))
    assert len(more["model.block.pre_block"]) == 2
    assert more.edit("**.block", remove("pre_block", MixX0))["model.block.pre_block"] == ()


def test_diff_lists_every_path_that_differs(recipe: Spec) -> None:
    other = recipe.set("train.rows", 8).set("model.block.mlp.act", part(SquaredLeakyReLU, slope=0.25))
    assert list(diff(recipe, other)) == [
        ("model.block.mlp.act", part(SquaredReLU), part(SquaredLeakyReLU, slope=0.25)),
        ("train.rows", 512, 8),
    ]
    assert list(diff(recipe, recipe)) == []
    changed = other.set("model.block.mlp.act.slope", 0.5)
    assert list(diff(other, changed)) == [("model.block.mlp.act.slope", 0.25, 0.5)]


def test_diff_shows_what_is_absent_and_aligns_chains(recipe: Spec) -> None:
    added = apply_assignment(recipe, "quantize+=Rule(where=gate, use=Float(dtype=bfloat16))")
    (rule,) = diff(recipe, added)
    assert rule.path == "quantize.1" and rule.a is ABSENT and rule.b["where"] == "gate"
    assert list(diff(added, recipe)) == [("quantize.1", rule.b, ABSENT)]
    both = apply_assignment(added, "quantize.2.use.bits=6")
    assert list(diff(recipe, both)) == [rule, ("quantize.2.use.bits", 8, 6)], "the rule after it is the same one"
    assert list(diff(recipe, recipe.set("model.block.pre_block", ()))) == [
        ("model.block.pre_block.0", recipe["model.block.pre_block.0"], ABSENT)
    ]
    (average,) = diff(recipe, recipe.replace(average=part(SWA, every=1, lr_scale_below=0.5)))
    assert average.a is None


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("train.rows=8", "train.rows", 8),
        ("train.grad_clip=1", "train.grad_clip", 1.0),
        ("model.block.mixer.qk.2.init=-0.5e-1", "model.block.mixer.qk.2.init", -0.05),
        ("train.compile=off", "train.compile", "off"),
        ("name=other-name", "name", "other-name"),
        ("average=none", "average", None),
        ("model.head.logits_transforms=()", "model.head.logits_transforms", ()),
        ("model.block.mlp.act=SquaredLeakyReLU(slope=0.25)", "model.block.mlp.act.slope", 0.25),
        ("model.head.logits_transforms=(Softcap(cap=15), Softcap)", "model.head.logits_transforms.0.cap", 15.0),
    ],
)
def test_values_from_a_command_line(recipe: Spec, text: str, path: str, value: object) -> None:
    assert apply_assignment(recipe, text)[path] == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.rows", "PATH=VALUE"),
        ("train.rows=many", "expected a whole number, got 'many'"),
        ("train.rows=1.5", "expected a whole number, got 1.5"),
        ("train.compile=perhaps", "one of"),
        ("model.block.mlp.act=SquaredLeakyRelu", "parts that fit: SquaredLeakyReLU, "),
        ("model.block.mlp.act=MixX0", "Activation"),
        ("train.rows=__import__('os')", "is not a number|no part called"),
        ("nowhere.at=1", "there is no path 'nowhere"),
    ],
)
def test_bad_values_from_a_command_line_name_the_place(recipe: Spec, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        apply_assignment(recipe, text)


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
        from_json({"part": "SquaredLeakyReLU", "slope": deep})
