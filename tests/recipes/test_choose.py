"""`auto`: what is chosen for a cap, a clock, a text and a machine."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.errors import UsageError
from bitgolf.pipeline.code_size import code_size
from bitgolf.pipeline.forecast import forecast_recipe
from bitgolf.recipes import get_recipe, scaling_laws
from bitgolf.recipes.auto import auto, chosen_recipe, sized_recipe
from bitgolf.recipes.check import check_recipe
from bitgolf.recipes.choose import (
    ANCHORS,
    CAP_MARGIN,
    CODE_COUNTS_FROM,
    REFERENCE_BUDGET,
    REFERENCE_SPEED,
    SCRIPT_BYTES,
    VOCABULARIES,
    Budget,
    choose,
)
from bitgolf.training.settings import Train

pytestmark = pytest.mark.usefixtures("real_script_sizes")

CAPS = st.floats(4.7, 7.81).map(lambda log: round(10**log))  # 50 kB to 64 MB
CLOCKS = st.floats(1.48, 4.94).map(lambda log: round(10**log, 1))  # 30 s to 24 h
TEXTS = st.floats(3.5, 12.0).map(lambda log: round(10**log))
SPEEDS = st.floats(9.0, 16.0).map(lambda log: 10**log)
BUDGETS = st.builds(Budget, cap=CAPS, seconds=CLOCKS, text_bytes=TEXTS, speed=SPEEDS)
FACTORS = st.floats(1.0, 20.0)


def budget(**changes: Any) -> Budget:
    return msgspec.structs.replace(REFERENCE_BUDGET, **changes)


@given(BUDGETS, FACTORS)
def test_more_bytes_more_time_and_more_speed_never_predict_a_higher_loss(some: Budget, factor: float) -> None:
    before = choose(some).packed_bpb
    larger = [
        msgspec.structs.replace(some, cap=min(10**9, round(some.cap * factor))),
        msgspec.structs.replace(some, seconds=some.seconds * factor),
        msgspec.structs.replace(some, speed=some.speed * factor),
    ]
    assert all(choose(more).packed_bpb <= before + 1e-9 for more in larger)


@given(BUDGETS)
def test_every_choice_is_a_recipe_within_the_cap(some: Budget) -> None:
    choice = choose(some)
    sizes = choice.sizes
    recipe = sized_recipe(sizes, cap=some.cap, seconds=some.seconds)  # its ranges are checked
    train = recipe["train"]()
    assert isinstance(train, Train) and (train.rows, train.length) == (sizes.rows, sizes.length)
    assert (
        choice.bytes <= CAP_MARGIN * some.model_bytes + 1
        and scaling_laws.LEAST_BITS <= sizes.bits <= scaling_laws.MOST_BITS
    )
    assert sizes.width % sizes.heads == 0 and sizes.heads % sizes.kv_heads == 0 and sizes.layers >= 2
    assert scaling_laws.LIMIT_BPB < choice.trained_bpb < choice.packed_bpb and choice.tokens > 0
    assert 0 < sizes.micro_rows <= sizes.rows and sizes.vocab in VOCABULARIES


@pytest.mark.parametrize("cap", [50_000, 250_000, 1_000_000])
def test_the_forecast_of_the_packed_recipe_is_within_the_cap_and_near_that_of_the_choice(cap: int) -> None:
    choice = choose(budget(cap=cap, seconds=86_400.0, text_bytes=144_000_000))
    assert choice.limit == "cap"
    recipe = chosen_recipe(choice)
    check_recipe(recipe)
    found = forecast_recipe(recipe(), choice.sizes.vocab).forecast.bytes
    assert found <= cap and found == pytest.approx(choice.bytes, rel=0.06)


def test_the_cap_of_the_challenge_has_room_for_the_script() -> None:
    full, below = budget(cap=CODE_COUNTS_FROM, seconds=86_400.0), budget(cap=CODE_COUNTS_FROM - 1)
    assert full.counted == "model+code" and below.counted == "model"
    assert full.model_bytes == below.model_bytes == CODE_COUNTS_FROM - SCRIPT_BYTES
    recipe = chosen_recipe(choose(full))
    assert recipe["pack.counted"] == "model+code" and chosen_recipe(choose(below))["pack.counted"] == "model"
    script = code_size(recipe, "sentencepiece").bytes or 0
    assert 0.4 * SCRIPT_BYTES < script <= SCRIPT_BYTES


def test_what_limits_the_model_is_named() -> None:
    assert choose(budget(seconds=30.0, cap=10**8)).limit == "clock"
    assert choose(budget(seconds=86_400.0, cap=50_000, text_bytes=10**10)).limit == "cap"
    small = choose(budget(seconds=86_400.0, cap=10**8, text_bytes=50_000))
    assert small.sizes.matrix_weights <= 50_000
    assert small.limit == "text" and small.sizes.steps > 0 and small.epochs == pytest.approx(scaling_laws.MOST_EPOCHS)


def test_a_small_text_has_a_small_vocabulary_and_limits_the_steps() -> None:
    tiny = choose(budget(text_bytes=5_000, seconds=3600.0))
    assert tiny.sizes.vocab == VOCABULARIES[0]
    tokens = tiny.sizes.steps * tiny.sizes.batch_tokens
    assert tokens * scaling_laws.bytes_per_token(512) <= 1.5 * scaling_laws.MOST_EPOCHS * 5_000
    assert choose(budget(text_bytes=10**9, seconds=3600.0)).sizes.steps == 0


def test_the_vocabulary_of_shards_is_kept() -> None:
    choice = choose(budget(vocab=3_000))
    assert choice.sizes.vocab == 3_000
    with pytest.raises(UsageError, match="no model with a vocabulary of 60,000 fits 40,000 bytes"):
        choose(budget(cap=40_000, vocab=60_000))


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"cap": 0}, "--cap"),
        ({"cap": 29_999}, "--cap"),
        ({"cap": 10**15}, "--cap"),
        ({"seconds": -5.0}, "--seconds"),
        ({"seconds": float("nan")}, "--seconds"),
        ({"seconds": float("inf")}, "--seconds"),
        ({"text_bytes": 3}, "--text"),
        ({"speed": 0.0}, "--speed"),
    ],
)
def test_absurd_numbers_are_refused_with_their_range(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(UsageError, match="must be from") as error:
        choose(budget(**changes))
    assert error.value.where == where and "got" in error.value.message


def test_the_anchor_is_taken_at_its_budget_only() -> None:
    (anchor,) = ANCHORS
    full = budget(cap=anchor.cap, seconds=anchor.seconds, speed=1.5e15, text_bytes=10**12)
    choice = choose(full)
    recipe = chosen_recipe(choice)
    assert recipe["pack.counted"] == full.counted
    assert choice.recipe == anchor.recipe and recipe["model"] == get_recipe(anchor.recipe)["model"]
    assert recipe["name"] == "auto" and recipe["pack.cap"] == anchor.cap and recipe["train.seconds"] == anchor.seconds
    for changes in ({"cap": 15_999_999}, {"seconds": 601.0}, {"speed": REFERENCE_SPEED}):
        assert not choose(msgspec.structs.replace(full, **changes)).recipe


def test_the_rules_at_the_anchor_have_the_size_of_the_published_system() -> None:
    choice = choose(budget(cap=16_000_000, seconds=600.0, speed=1.5e15, text_bytes=10**12))
    sizes = choice.sizes
    assert (sizes.layers, sizes.width, sizes.vocab, sizes.hidden) == (11, 512, 8192, 2048)
    assert sizes.length == 2_048 and 100_000 < sizes.batch_tokens < 1_200_000


def test_the_recipe_without_a_run_is_that_of_the_reference_machine() -> None:
    assert auto() == chosen_recipe(choose(REFERENCE_BUDGET))
    check_recipe(auto())


@given(st.floats(1e3, 1e12), st.floats(1e3, 1e12), FACTORS)
def test_repeated_text_is_worth_less_than_new_text(text: float, seen: float, factor: float) -> None:
    worth = scaling_laws.unique_equivalent(seen, text)
    assert worth <= seen * (1 + 1e-9) and worth <= text * (1 + scaling_laws.EPOCHS_OF_USE) * (1 + 1e-9)
    assert worth <= scaling_laws.unique_equivalent(seen * factor, text) + 1e-6 * worth
    assert worth <= scaling_laws.unique_equivalent(seen, text * factor) + 1e-6 * worth
