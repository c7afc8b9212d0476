"""Rules cover every parameter exactly once, and none of them is dead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.config.rules import Rule, cover
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.optim.adam import Adam

ROLES = {
    "embed.weight": "embedding",
    "blocks.0.mlp.up.weight": "matrix",
    "blocks.0.mixer.q.weight": "matrix",
    "blocks.0.gain": "scale",
}


def rule(where: str) -> Spec[Rule]:
    return part(Rule, where=where, use=part(Adam, lr=0.1))


def test_the_first_match_wins() -> None:
    taken = cover([rule("matrix@**.mlp.**"), rule("matrix"), rule("*")], ROLES)
    assert taken == [["blocks.0.mlp.up.weight"], ["blocks.0.mixer.q.weight"], ["embed.weight", "blocks.0.gain"]]


def test_a_parameter_without_a_rule_is_named() -> None:
    with pytest.raises(RecipeError, match=r"no rule takes the parameter blocks.0.gain \(role 'scale'\)"):
        cover([rule("matrix"), rule("embedding")], ROLES)


def test_a_dead_rule_is_named_with_the_roles_there_are() -> None:
    with pytest.raises(RecipeError, match=r"'gate' matches nothing .*embedding, matrix, scale"):
        cover([rule("gate"), rule("*")], ROLES)


def test_two_rules_for_one_parameter_are_an_error_that_names_both() -> None:
    with pytest.raises(
        RecipeError,
        match=r"two rules for one parameter: blocks.0.mlp.up.weight .* rule 0 \('\*'\), so rule 1 \('matrix'\)",
    ):
        cover([rule("*"), rule("matrix")], ROLES)


paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join)


@given(
    st.dictionaries(paths, st.sampled_from(["matrix", "scale", "gate"]), min_size=1),
    st.lists(st.sampled_from(["matrix", "scale", "gate", "@a.**", "@*", "*"]), min_size=1, max_size=5),
)
def test_cover_is_exact_or_an_error(roles: dict[str, str], wheres: list[str]) -> None:
    try:
        taken = cover([rule(w) for w in wheres], roles)
    except RecipeError:
        return
    flat = [p for paths in taken for p in paths]
    assert sorted(flat) == sorted(roles) and all(taken)
