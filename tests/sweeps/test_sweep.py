"""Sweeps: what is run, what is taken over, what is in the table, and what continues."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from bitgolf.config.parse import from_json
from bitgolf.config.spec import part
from bitgolf.errors import CorruptFileError, FormatVersionError, RecipeError, UsageError
from bitgolf.files import read_json
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.significance.mean_tests import welch
from bitgolf.significance.planning import holm
from bitgolf.sweeps.driver import run_sweep
from bitgolf.sweeps.estimate import expected_cost
from bitgolf.sweeps.factors import BASE, FactorLevel
from bitgolf.sweeps.folder import SWEEP_FILE, RunUnit, read_record, stored_sweep
from bitgolf.sweeps.summary import SweepSummary
from bitgolf.sweeps.sweep import Sweep
from bitgolf.training.trainer import Trainer
from helpers.toy_sweeps import (
    BITS,
    FEW_BITS,
    OPTIMIZER,
    comparable,
    executed_stages,
    plain,
    run_toy_sweep,
    toy_inputs,
    toy_sweep,
)

Swept = tuple[Path, SweepSummary]


@pytest.fixture
def copied(swept: Swept, tmp_path: Path) -> Path:
    """A copy of the finished sweep that a test may change."""
    return Path(shutil.copytree(swept[0], tmp_path / "sweep", copy_function=shutil.copy2))


def test_each_training_and_each_encoding_is_executed_once(swept: Swept) -> None:
    stages = executed_stages(swept[0])
    assert stages["prepare"] == 1, "all runs have the same text"
    assert stages["train"] == 6, "two variants train, with three seeds"
    assert stages["quantize"] == 9 and stages["report"] == 9


def test_the_table_has_means_spread_and_tests(swept: Swept) -> None:
    summary = swept[1]
    assert {row.name for row in summary.variants} == {"base", "strong decay", "3 bits"}
    means = [row.mean for row in summary.variants]
    assert None not in means and means == sorted(means, key=lambda mean: mean or 0), "the best variant comes first"
    by_name = {row.name: row for row in summary.variants}
    scores = {name: [run.bpb for run in row.runs if run.bpb is not None] for name, row in by_name.items()}
    base = by_name["base"]
    assert base.difference is None and base.p is None and base.settings == {}
    expected = holm([welch(scores[row.name], scores["base"]).p for row in summary.variants if row is not base])
    assert [row.p for row in summary.variants if row is not base] == pytest.approx(expected)
    for row in by_name.values():
        assert [run.seed for run in row.runs] == [0, 1, 2] and {run.state for run in row.runs} == {"done"}
        assert row.mean == pytest.approx(sum(scores[row.name]) / 3) and row.deviation
        for run in row.runs:
            assert read_json(Path(run.run) / "score.json")["bpb"]["packed"] == run.bpb
    few = by_name["3 bits"]
    assert few.settings == {BITS: 3.0} and few.bytes and base.bytes and few.bytes < base.bytes
    assert len(by_name["strong decay"].settings) == 2
    assert few.difference == pytest.approx((few.mean or 0) - (base.mean or 0))


def test_the_cost_is_that_of_the_stages_that_were_executed(swept: Swept) -> None:
    cost = swept[1].cost
    seconds = {True: 0.0, False: 0.0}
    for file in swept[0].glob("*/stages.json"):
        for stage in read_json(file).values():
            seconds["taken_from" in stage] += stage["seconds"]
    threads = read_json(next(swept[0].glob("base-*/environment.json")))["threads"]
    assert cost.unit == "core-hours"
    assert cost.spent == pytest.approx(seconds[False] * threads / 3600) and cost.saved > 0


def test_the_cost_is_estimated_before(swept: Swept) -> None:
    runs, base = tuple(swept[0].glob("*-s*")), toy_sweep()["recipe"]
    clock = base.set("train", base["train"].replace(seconds=18.0, steps=0))
    units = [RunUnit(BASE, seed, clock) for seed in (0, 1)] + [RunUnit(BASE, 1, clock.set(BITS, 3.0))]
    assert expected_cost(units, (), 10) == "2 trainings on a clock: about 0.100 device-hours"
    steps = [RunUnit(BASE, 5, base)]
    assert expected_cost(steps, (), 1) == "1 training: its cost is known after the first run"
    seconds = [s["seconds"] for run in runs if "taken_from" not in (s := read_json(run / "stages.json")["train"])]
    assert len(seconds) == 6
    hours = sum(seconds) / 6 / 3600
    assert expected_cost(steps, runs, 1) == f"1 training as long as the runs so far: about {hours:.3f} device-hours"
    assert expected_cost([], runs, 1) == ""


def test_a_finished_sweep_runs_nothing_more(swept: Swept, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitgolf.sweeps.job.run_recipe", lambda *args, **kwargs: pytest.fail("it runs again"))
    again = run_toy_sweep(copied)
    assert comparable(plain(again)) == comparable(plain(swept[1]))


def test_more_levels_and_seeds_continue_in_the_same_folder(copied: Path) -> None:
    before = executed_stages(copied)
    two_bits = part(FactorLevel, name="2 bits", edits=(f"{BITS}=2",))
    summary = run_toy_sweep(copied, toy_sweep(OPTIMIZER, FEW_BITS, two_bits, seeds=(0, 1, 2)))
    new = executed_stages(copied) - before
    assert new["train"] == 0 and new["quantize"] == 3 and len(summary.variants) == 4
    assert run_toy_sweep(copied, toy_sweep(OPTIMIZER, seeds=(1,))).seeds == [1]


def test_runs_of_another_sweep_are_taken_over(swept: Swept, tmp_path: Path) -> None:
    sources = tuple(folder for folder in sorted(swept[0].iterdir()) if folder.is_dir())
    summary = run_toy_sweep(tmp_path / "other", toy_sweep(FEW_BITS, seeds=(2,)), *sources)
    assert executed_stages(tmp_path / "other") == {"report": 2}
    assert summary.variants[0].mean in [run.bpb for row in swept[1].variants for run in row.runs]


def test_changed_text_is_another_sweep(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("other text")
    given = toy_inputs()._replace(given=GivenInputs([tmp_path / "text"]))
    with pytest.raises(UsageError, match="another text"):
        run_sweep(toy_sweep(), given, copied)


# ---- the sweep as a value ------------------------------------------------------------------------------------------


def test_the_file_of_a_sweep_has_the_sweep(swept: Swept) -> None:
    record = read_record(swept[0])
    assert record and stored_sweep(swept[0], record) == toy_sweep()
    assert from_json(json.loads(json.dumps(toy_sweep().to_json()))) == toy_sweep()
    assert toy_sweep().hash == toy_sweep().hash != toy_sweep(FEW_BITS).hash
    assert record.rounds == [
        {"variants": ["base", "strong decay", "3 bits"], "share": 1.0, "reason": "all combinations of levels"}
    ]


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (("model.dim=31",), "variant x"),
        (("model.nonsense=3",), "nonsense"),
        (("Muon.lr=-1",), r"variant x: train\.optim\.0\.use\.lr"),
    ],
)
def test_a_wrong_variant_is_refused_before_anything_is_written(
    edits: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        run_toy_sweep(tmp_path / "sweep", toy_sweep(part(FactorLevel, name="x", edits=edits)))
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": ()}, "different seeds, got none"),
        ({"seeds": (1, 1)}, "different seeds, got 1, 1"),
        ({"steps": 5, "seconds": 1.0}, "either a number of steps or a clock"),
    ],
)
def test_settings_that_exclude_each_other(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        toy_sweep(**settings)()  # type: ignore[arg-type]


def test_two_levels_that_replace_the_recipe_cannot_be_combined() -> None:
    from bitgolf.sweeps.factors import Factor

    recipe = toy_sweep()["recipe"]
    factors = tuple(
        part(Factor, name=name, levels=(part(FactorLevel, name=f"{name}1", recipe=recipe.set("model.dim", 16)),))
        for name in ("a", "b")
    )
    sweep: Sweep = toy_sweep().replace(factors=factors)()
    with pytest.raises(RecipeError, match="a1 and b1 each replace the whole recipe"):
        sweep.recipe(sweep.space.variant({"a": "a1", "b": "b1"}))


def test_fixed_steps_and_a_fixed_clock() -> None:
    steps, clock = toy_sweep(steps=40)(), toy_sweep(seconds=10.0)()
    base = steps.space.variant({})
    assert (steps.recipe(base)["train.steps"], steps.recipe(base)["train.seconds"]) == (40, 0.0)
    assert steps.recipe(base, 0.25)["train.steps"] == 10
    assert (clock.recipe(base)["train.steps"], clock.recipe(base, 0.5)["train.seconds"]) == (0, 5.0)


# ---- damage --------------------------------------------------------------------------------------------------------


def test_a_damaged_file_of_a_sweep_is_named(copied: Path) -> None:
    (copied / SWEEP_FILE).write_text('{"format": 1')
    with pytest.raises(CorruptFileError, match=r"sweep\.json: not a sweep"):
        run_toy_sweep(copied)
    (copied / SWEEP_FILE).write_text('{"format": 7}')
    with pytest.raises(FormatVersionError, match="the sweep has format 7"):
        run_toy_sweep(copied)


def test_a_damaged_run_is_repaired(swept: Swept, copied: Path) -> None:
    broken = next(copied.glob("3-bits-*-s1"))
    (broken / "score.json").write_text("{")
    before = executed_stages(copied)
    assert comparable(plain(run_toy_sweep(copied))) == comparable(plain(swept[1]))
    assert executed_stages(copied) - before == {"report": 1}


def test_the_result_is_plain_json(swept: Swept) -> None:
    document = plain(swept[1])
    assert msgspec.convert(document, SweepSummary) == swept[1]
    assert document.keys() >= {"sweep", "folder", "hash", "recipe", "measure", "seeds", "variants", "rounds", "cost"}


# ---- failures and kills --------------------------------------------------------------------------------------------


def test_a_run_that_fails_does_not_end_the_sweep_and_is_tried_again(tmp_path: Path) -> None:
    sweep = toy_sweep(part(FactorLevel, name="small", edits=("pack.cap=100",)), seeds=(0,))
    summary = run_toy_sweep(tmp_path / "sweep", sweep)
    base, small = summary.variants
    assert base.name == "base" and base.mean is not None and base.runs[0].state == "done"
    assert small.runs[0].state == "failed" and "over the cap of 100" in small.stopped and small.mean is None
    before = executed_stages(tmp_path / "sweep")
    run_toy_sweep(tmp_path / "sweep", sweep.replace(factors=(), edits=()))
    assert run_toy_sweep(tmp_path / "sweep", sweep).variants[1].runs[0].state == "failed"
    assert executed_stages(tmp_path / "sweep")["train"] == before["train"], "it was not trained again"


def test_an_interrupt_ends_the_sweep_and_the_same_call_continues(
    swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(at: int) -> None:
        calls = list[int]()

        def step(self: Trainer, *args: object, **kwargs: object) -> object:
            calls.append(1)
            if len(calls) == at:
                raise KeyboardInterrupt
            return original(self, *args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(Trainer, "step", step)

    original, folder = Trainer.step, tmp_path / "sweep"
    for at in (12, 20):  # in the second and in the fourth training
        interrupted(at)
        with pytest.raises(KeyboardInterrupt):
            run_toy_sweep(folder)
    monkeypatch.setattr(Trainer, "step", original)
    assert comparable(plain(run_toy_sweep(folder))) == comparable(plain(swept[1]))
    assert executed_stages(folder)["train"] == 6
