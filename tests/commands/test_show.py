"""Output of `show` and `recipes`: memory forecast, published results, and departures with their options."""

from __future__ import annotations

import shlex
from typing import Any

import msgspec
import pytest

from bitgolf.average.ema import EMA
from bitgolf.average.lawa import LAWA
from bitgolf.average.swa import SWA
from bitgolf.commands.show import describe_recipe
from bitgolf.commands.show_table import show_table
from bitgolf.config.parse import apply_assignment
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.objectives import MultiTokenPrediction
from bitgolf.pipeline.code_size import CodeSize
from bitgolf.recipes import get_recipe, published_bpb, recipe_names
from bitgolf.recipes.identity import recipe_hash
from helpers.command_line import run_command
from helpers.toy import toy_recipe

KEPT: list[tuple[Spec[Any] | None, float]] = [
    (None, 0),
    (part(EMA), 1),
    (part(SWA, every=1, lr_scale_below=0.5), 1),
    (part(LAWA, every=1, keep=7, lr_scale_below=0.5), 7),
]


@pytest.mark.parametrize(("average", "copies"), KEPT)
def test_memory_counts_what_the_average_keeps(average: Spec[Any] | None, copies: int) -> None:
    plain, shown = (describe_recipe(toy_recipe().replace(average=a)) for a in (None, average))
    more = shown.forecast.training_state_bytes - plain.forecast.training_state_bytes
    assert copies * 4 * shown.params <= more <= copies * 4 * shown.params + 16  # counters


def test_memory_counts_weights_gradients_and_the_heads_of_an_objective() -> None:
    recipe = toy_recipe(vocab=300).replace(average=None).set("train.optim.2.where", "*")
    plain, shown = (
        describe_recipe(recipe),
        describe_recipe(recipe.set("train.objective", part(MultiTokenPrediction, heads=2))),
    )
    by_role = plain.params_by_role
    muon, adam = 3 * by_role["matrix"], plain.params - by_role["matrix"]  # momentum, copies of weight and gradient
    assert 0 <= plain.forecast.training_state_bytes - 4 * (2 * plain.params + muon + 2 * adam) < 1000
    more = shown.forecast.training_state_bytes - plain.forecast.training_state_bytes
    assert 0 <= more - 4 * (2 + 2) * 2 * 300 * 32 < 100  # weight, gradient and two moments of each head; counters


def test_the_table_says_what_was_published() -> None:
    lines = [" ".join(line.split()) for line in show_table(describe_recipe(get_recipe("pr1512"))).splitlines()]
    published = lines[lines.index("Published by its authors, not measured here") :]
    expected = ["hardware 8 x H100 SXM, 600 s", "bpb, packed 1.1255", "bpb, sliding 1.1117", "bytes 16,120,506"]
    assert set(expected) <= set(published)
    assert "seeds, 42 trained 1.1207, averaged 1.1198, packed 1.12501, sliding 1.1112" in published
    assert not any("departures" in line for line in published)


def test_a_departure_is_undone_by_the_words_that_stand_beside_it() -> None:
    recipe = get_recipe("pr1512")
    lines = show_table(describe_recipe(recipe)).splitlines()
    start = lines.index("Differences from the published system, and the --set options that remove each:") + 1
    undone = [line for line in lines[start : lines.index("", start)] if "--set" in line]
    departures = [assignments for assignments in (recipe().published or {})["departures"].values() if assignments]
    assert len(undone) == len(departures) == 4
    for line, assignments in zip(undone, departures, strict=True):
        changed, words = recipe, shlex.split(line[line.index("--set") :])
        assert words == [word for assignment in assignments.split() for word in ("--set", assignment)]
        for assignment in words[1::2]:
            changed = apply_assignment(changed, assignment)
        assert recipe_hash(changed) != recipe_hash(recipe)


def test_the_code_is_part_of_the_forecast_if_the_cap_counts_it() -> None:
    for counted, total in (("model", 0), ("model+code", 90_000)):
        shown = describe_recipe(toy_recipe().set("pack.counted", counted), code=CodeSize(90_000))
        found = shown.forecast
        assert (found.counted, found.code, found.total - found.bytes) == (counted, 90_000, total)
        words = " ".join(show_table(shown).split())
        assert "90,000 bytes, the script that `bitgolf export` writes" in words
        assert (f"{found.total:,} bytes" in words and "the cap includes it" in words) == bool(total) or not total
    unknown = describe_recipe(toy_recipe().set("pack.counted", "model+code"), code=CodeSize(None, "a reason"))
    assert unknown.forecast.total == unknown.forecast.bytes and "unknown: a reason" in show_table(unknown)


def test_the_size_of_the_authors_code_is_shown() -> None:
    words = " ".join(show_table(describe_recipe(get_recipe("pr1855"))).split())
    assert f"bytes of code {get_recipe('pr1855')['published']['code']:,}" in words


def test_nothing_is_said_of_what_nobody_published() -> None:
    shown = describe_recipe(get_recipe("quickstart"))
    table = show_table(shown)
    assert "Published" not in table and "Differences" not in table and "caution" not in table
    baseline, pr675 = (
        show_table(msgspec.structs.replace(shown, published=get_recipe(name)().published))
        for name in ("baseline", "pr675")
    )
    assert "Differences" not in baseline and "trained on the validation text: no option" in pr675


def test_whatever_stands_in_a_recipe_of_others_can_be_shown() -> None:
    odd = {"bpb": 3, "departures": ["x"], "bytes": None, "seeds": {"1": [2]}, "a_b": {"c": {"d": 1234}}}
    table = show_table(describe_recipe(toy_recipe().replace(published=odd)))
    assert "d 1,234" in table and "a b, c" in table


def test_a_long_value_leaves_names_whole_at_80_columns() -> None:
    lines = run_command("--width", "80", "show", "quickstart").stdout.splitlines()[:20]
    assert any(line.startswith("parameters of role embedding  ") for line in lines)
    assert max(map(len, lines)) <= 80


def test_long_values_are_shown_whole() -> None:
    words = "the very " * 40 + "end"
    table = show_table(describe_recipe(toy_recipe().replace(published={"doubts": words})))
    assert words in " ".join(table.split())


@pytest.mark.parametrize("name", recipe_names())
def test_the_result_in_the_list_is_that_of_the_published_file(name: str) -> None:
    figures = (get_recipe(name)().published or {}).get("bpb") or {}
    stored = {stage: bpb for stage, bpb in figures.items() if stage in ("packed", "sliding", "adapted")}
    assert published_bpb(name) == (min(stored.items(), key=lambda figure: figure[1]) if stored else None)


def test_show_refuses_what_a_run_would() -> None:
    """For example a codec that needs calibration in a recipe without calibration."""
    with pytest.raises(RecipeError, match="needs calibration"):
        describe_recipe(get_recipe("quickstart").replace(calibrate=None))
