"""Tests of rules: each parameter is assigned to exactly one rule, and each rule gets at least one parameter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.config.rules import Rule, assign_to_rules
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.optim.adam import Adam
from bitgolf.quantize.codecs.codec import Float
from bitgolf.recipes import get_recipe

ROLES = {
    "embed.weight": "embedding",
    "blocks.0.mlp.up.weight": "matrix",
    "blocks.0.mixer.q.weight": "matrix",
    "blocks.0.gain": "scale",
}


def rule(where: str) -> Spec[Rule]:
    return part(Rule, where=where, use=part(Adam, lr=0.1))


def test_the_first_match_wins() -> None:
    taken = assign_to_rules([rule("matrix@**.mlp.**"), rule("matrix"), rule("*")], ROLES)
    assert taken == [["blocks.0.mlp.up.weight"], ["blocks.0.mixer.q.weight"], ["embed.weight", "blocks.0.gain"]]


def test_a_parameter_without_a_rule_is_named() -> None:
    with pytest.raises(RecipeError, match=r"no rule matches the parameter blocks.0.gain \(role 'scale'\)"):
        assign_to_rules([rule("matrix"), rule("embedding")], ROLES)


def test_a_dead_rule_is_named_with_the_roles_there_are() -> None:
    with pytest.raises(RecipeError, match=r"'gate' matches no parameter .*embedding, matrix, scale"):
        assign_to_rules([rule("gate"), rule("*")], ROLES)


def test_two_rules_for_one_parameter_are_an_error_that_names_both() -> None:
    with pytest.raises(
        RecipeError,
        match=r"rule 1 \('matrix'\) has no effect.*: blocks.0.mlp.up.weight is already taken by rule 0 \('\*'\)",
    ):
        assign_to_rules([rule("*"), rule("matrix")], ROLES)


paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join)


@given(
    st.dictionaries(paths, st.sampled_from(["matrix", "scale", "gate"]), min_size=1),
    st.lists(st.sampled_from(["matrix", "scale", "gate", "@a.**", "@*", "*"]), min_size=1, max_size=5),
)
def test_cover_is_exact_or_an_error(roles: dict[str, str], wheres: list[str]) -> None:
    try:
        taken = assign_to_rules([rule(w) for w in wheres], roles)
    except RecipeError:
        return
    flat = [p for paths in taken for p in paths]
    assert sorted(flat) == sorted(roles) and all(taken)


def test_a_rule_is_checked_by_what_it_is_used_for() -> None:
    """A codec in place of an optimizer is an error when the recipe is written; the message has the path."""
    recipe = get_recipe("baseline")
    adam, codec = part(Adam, lr=0.1), part(Float, dtype="float16")
    with pytest.raises(RecipeError, match=r"expected a part of the kind Codec, got Adam") as error:
        recipe.set("quantize.0.use", adam)
    assert error.value.where == "quantize.0.use"
    with pytest.raises(RecipeError, match=r"expected a part of the kind UpdateAlgorithm, got Float") as error:
        recipe.set("train.optim.1", part(Rule, where="embedding", use=codec))
    assert error.value.where == "train.optim.1.use"
    assert recipe.set("quantize.0.use", part(Float, dtype="bfloat16"))["quantize.0.use.dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("path", "value"),
    [("model", "train"), ("train", "pack"), ("tokens", "text"), ("score", "quantize"), ("average", "calibrate")],
)
def test_a_stage_of_a_recipe_is_no_other(path: str, value: str) -> None:
    recipe = get_recipe("quickstart")
    with pytest.raises(RecipeError, match=r"expected a part of the kind"):
        recipe.set(path, recipe[value])
