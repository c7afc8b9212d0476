"""A run of `auto` before it starts: its folder, and the held-out tokens that are scored."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitgolf.commands.auto import plan_auto_run
from bitgolf.commands.auto_table import auto_table
from bitgolf.pipeline.auto_choice import AutoRequest
from bitgolf.pipeline.execute import ExecutionOptions
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.recipes.auto import chosen_recipe
from bitgolf.recipes.choose import REFERENCE_BUDGET, choose

REQUEST, OPTIONS = AutoRequest(60_000, 30.0, 7e10), ExecutionOptions()


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GivenInputs:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("x" * 50_000)
    return GivenInputs([tmp_path / "a.txt"])


def test_held_out_tokens_follow_from_the_clock_unless_they_are_given(given: GivenInputs) -> None:
    planned = plan_auto_run(REQUEST, given, OPTIONS)
    choice = planned.given.auto
    assert choice is not None and planned.recipe == chosen_recipe(choice)
    assert planned.given.score_tokens == choice.score_tokens >= 20_000
    assert plan_auto_run(REQUEST, given._replace(score_tokens=0), OPTIONS).given.score_tokens == 0
    toy = plan_auto_run(REQUEST._replace(speed=None), given, OPTIONS, quick=True).given
    assert toy.score_tokens is None and toy.auto is not None and toy.auto.budget.speed == REFERENCE_BUDGET.speed


def test_the_folder_is_named_after_what_is_asked_for(given: GivenInputs) -> None:
    def folder(request: AutoRequest = REQUEST, **words: object) -> Path:
        return plan_auto_run(request, given, OPTIONS, **words).folder  # type: ignore[arg-type]

    names = {folder(), folder(REQUEST._replace(cap=70_000)), folder(REQUEST._replace(seconds=31.0))}
    names |= {folder(edits=["model.layers=3"]), folder(quick=True)}
    assert len(names) == 5 and all(name.parent == Path("runs") for name in names)
    assert folder(REQUEST._replace(speed=9e10)) == folder() and folder(out=Path("there")) == Path("there")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_table_has_reasons_and_options_and_fits_the_width(width: int) -> None:
    choice = choose(REFERENCE_BUDGET)
    text = auto_table(choice, width)
    longest = max(len(word) for word in text.split())
    assert max(map(len, text.splitlines()[1:])) <= max(width, longest)
    for option in (
        "model.dim=N",
        "tokens.vocab=N",
        "TrellisCodec.bits=N",
        "calibrate.source.batches=N",
        "--score-tokens",
    ):
        assert option in text
    assert f"{choice.sizes.width:,}" in text and f"{choice.packed_bpb:.3f}" in text
