"""The check of a whole recipe before any work: settings that contradict each other are found wherever they are."""

from __future__ import annotations

import pytest

from bitgolf.config.parse import apply_assignment
from bitgolf.errors import RecipeError
from bitgolf.recipes import load_recipe
from bitgolf.recipes.check import check_recipe

CONTRADICTIONS = {
    "score.1.stride=300": "score.1",
    "model.block.mixer.heads=3": "model.block.mixer",
    "train.optim=(Rule(where='matrix',use=Adam()),)": "train.optim",
}
"""Assignment -> the beginning of the path that the error names, for settings that only constructors can judge."""


@pytest.mark.parametrize("assignment", CONTRADICTIONS)
def test_a_contradiction_is_named_by_its_path(assignment: str) -> None:
    with pytest.raises(RecipeError) as refused:
        check_recipe(apply_assignment(load_recipe("quickstart", ()), assignment))
    assert str(refused.value.where).startswith(CONTRADICTIONS[assignment])


def test_a_recipe_that_can_be_run_passes() -> None:
    check_recipe(load_recipe("quickstart", ()))
