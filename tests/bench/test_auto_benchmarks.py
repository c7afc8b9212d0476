"""The benchmarks of the recipe `auto`: its constants are those that its measured runs give, and each bench runs."""

from __future__ import annotations

import sys
from pathlib import Path

import auto_fit
import auto_grid
import auto_runs
import auto_speed
import pytest
from result_lines import read_lines

from bitgolf.recipes import scaling_laws
from bitgolf.recipes.choose import REFERENCE_BUDGET

RESULTS = Path(__file__).parents[2] / "results"


def test_the_constants_of_the_loss_are_fitted_to_the_published_runs() -> None:
    runs = auto_fit.loss_runs(read_lines(RESULTS / "auto_grid.jsonl"))
    constants, residuals = auto_fit.fit_loss([*runs, *auto_fit.EARLIER])
    assert {name: getattr(scaling_laws, name) for name in constants} == pytest.approx(constants, rel=0.01)
    assert len(runs) >= 6 and abs(residuals).max() < 0.03


def test_the_constants_of_the_time_are_fitted_to_the_published_steps() -> None:
    lines = read_lines(RESULTS / "auto_speed.jsonl")
    stream, logit, speed, deviation = auto_speed.fit(lines)
    assert pytest.approx((stream, logit), rel=0.1) == (scaling_laws.STREAM_FLOPS, scaling_laws.LOGIT_FLOPS)
    assert 1e10 < speed < 1e11 and deviation < 0.15


def test_every_point_of_the_grid_is_another_one() -> None:
    assert len(set(auto_grid.POINTS)) == len(auto_grid.POINTS)
    assert all(point.variant in auto_grid.VARIANTS for point in auto_grid.POINTS)


def test_points_that_have_a_line_are_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").mkdir()
    for i in range(40):
        (tmp_path / "text" / f"{i}.txt").write_text(" ".join(f"word{(7 * i + j * j) % 397}" for j in range(400)))
    monkeypatch.setattr(auto_grid, "POINTS", (auto_grid.GridPoint(2, 32, 512, 1, batch=512),))
    words = ["auto_grid", "--text", "text", "--tokens", "256", "--out", "lines.jsonl"]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", words)
        auto_grid.main()
    (line,) = read_lines(tmp_path / "lines.jsonl")
    assert 0 < line["bpb"] < 20 and line["tokens"] == 512 and line["matrix_weights"] == 2 * 10 * 32 * 32


def test_steps_stand_for_the_clock_at_a_given_speed() -> None:
    tokens = auto_runs.tokens_of_quickstart(90.0, REFERENCE_BUDGET.speed)
    recipe = auto_runs.by_steps(auto_runs.get_recipe("quickstart"), tokens)
    assert recipe["train.seconds"] == 0.0 and recipe["train.steps"] == round(tokens / 2048)
    assert tokens == pytest.approx(90 * 20_000, rel=0.1)


def test_the_table_has_a_cell_for_each_clock_and_cap() -> None:
    line = {"recipe": "auto", "seconds": 90.0, "cap": 100_000, "seed": 0, "bpb": {"trained": 2.0, "packed": 2.01}}
    line |= {"predicted_bpb": 1.9, "width": 64, "layers": 2, "vocab": 1024, "bits": 5.0, "tokens": 10, "bytes": 9}
    other = line | {"seconds": 600.0, "cap": 400_000}
    text = auto_runs.tables([line, other])
    assert "| 90 s | 2.010 (1.900) | not measured |" in text and "| 600 s | not measured | 2.010 (1.900) |" in text
