"""Sweeps in Python: the runs and the table are those of the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, assert_type

import pytest

import bitgolf
from bitgolf.api import sweeps
from bitgolf.api.tables import Table
from bitgolf.errors import BitgolfError, RecipeError, UsageError
from bitgolf.parts import GreedyForward, LossNotFinite
from bitgolf.sweeps.summary import SweepSummary
from bitgolf.sweeps.sweep import Sweep
from helpers.command_line import run_command
from helpers.damage import score_in_this_process
from helpers.toy_run import scalable_recipe
from helpers.toy_training import make_data

RECIPE = scalable_recipe()
BITS = "quantize.2.use.bits"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("shards") / "data")


@pytest.fixture(scope="module")
def swept(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> bitgolf.SweepOutcome:
    """A sweep of a recipe, another rate and other bits, with two seeds."""
    folder = tmp_path_factory.mktemp("swept") / "sweep"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bitgolf.pipeline.scoring.score_in_workers", score_in_this_process)
        return bitgolf.sweep(
            RECIPE,
            variants={"slow": {"Muon.lr": 0.001, "Muon.weight_decay": 0.2}, "few bits": RECIPE.set(BITS, 3.0)},
            seeds=[3, 5],
            steps=2,
            shards=shards,
            out=folder,
            progress=False,
        )


def test_the_tables(swept: bitgolf.SweepOutcome) -> None:
    assert_type(swept.variants, Table[sweeps.ComparedVariant])
    rows = {row.name: row for row in swept.variants}
    assert rows.keys() == {"base", "slow", "few bits"} and {row.seeds for row in swept.variants} == {2}
    slow = rows["slow"]
    assert slow.to_base and slow.p and slow.bpb == pytest.approx((rows["base"].bpb or 0) + slow.to_base)
    assert len(swept.runs) == 6 and {run.seed for run in swept.runs} == {3, 5}
    assert {run.steps for run in swept.runs} == {2} and {run.state for run in swept.runs} == {"done"}
    mean = [run.bpb for run in swept.runs if run.variant == "slow" and run.bpb]
    assert slow.bpb == pytest.approx(sum(mean) / 2)
    assert "few bits" in repr(swept) and "<th>to_base</th>" in swept._repr_html_()


def test_the_best_variant_and_its_run(swept: bitgolf.SweepOutcome) -> None:
    assert swept.best == swept.variants[0]
    run = swept.best_run()
    own = [row for row in swept.runs if row.variant == swept.best.name]
    assert run.score["packed"] == min(row.bpb for row in own if row.bpb) and run.seed in (3, 5)


def test_the_command_continues_it_with_the_same_result(swept: bitgolf.SweepOutcome) -> None:
    done = run_command("sweep", str(swept.folder), "--json")
    assert done.returncode == 0, done.stderr
    command, ours = json.loads(done.stdout), json.loads(json.dumps(_plain(swept.summary)))
    assert command == ours
    again = bitgolf.sweep(swept.folder, progress=False)
    assert _plain(again.summary) == command


def _plain(summary: SweepSummary) -> Any:
    import msgspec

    return msgspec.to_builtins(summary)


def planned(monkeypatch: pytest.MonkeyPatch, *args: Any, **options: Any) -> bitgolf.Spec[Sweep]:
    """The sweep that a call would execute."""
    seen: list[bitgolf.Spec[Sweep]] = []

    def execute(target: str, sweep: bitgolf.Spec[Sweep], execution: object) -> None:
        seen.append(sweep)

    monkeypatch.setattr(sweeps, "execute_sweep", execute)
    bitgolf.sweep(*args, progress=False, **options)
    return seen[0]


def test_a_list_is_a_factor_and_a_value_changes_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"Muon.lr": [0.01, 0.02], "layers": 2, "train.compile": "off"}
    act = bitgolf.part(bitgolf.parts.SquaredReLU)
    made = planned(monkeypatch, "quickstart", set={**settings, "model.block.mlp.act": [act]}, seeds=2, quick=True)
    assert made["recipe"]["name"] == "quickstart-quick" and made["seeds"] == (0, 1)
    assert made["edits"] == ("model.layers=2", "train.compile=off", "model.block.mlp.act=SquaredReLU")
    assert [level["edits"] for level in made["factors.0"]["levels"]] == [
        ("train.optim.0.use.lr=0.01",),
        ("train.optim.0.use.lr=0.02",),
    ]
    built = made()
    recipe = built.recipe(built.space.variant({"train.optim.0.use.lr": "lr=0.02"}))
    assert recipe["model.block.mlp.act"] == act and recipe["model.layers"] == 2


def test_searches_and_gates_are_parts_or_text(monkeypatch: pytest.MonkeyPatch) -> None:
    search, gate = bitgolf.part(GreedyForward, margin=0.01), bitgolf.part(LossNotFinite)
    parts = planned(monkeypatch, "quickstart", search=search, gates=[gate, "OverCap"])
    words = planned(monkeypatch, "quickstart", search="GreedyForward(margin=0.01)", gates=["LossNotFinite", "OverCap"])
    assert parts == words and parts["search"] == search and parts["gates"][0] == gate
    quick = planned(monkeypatch, "quickstart", variants={"wide": bitgolf.recipe("quickstart")}, quick=True)
    assert quick["factors.0"]["levels"][0]["recipe"]["name"] == "quickstart-quick"
    assert planned(monkeypatch, "head_mixing", seeds=[7])["seeds"] == (7,)


@pytest.mark.parametrize(
    ("recipe", "options", "error", "message"),
    [
        ("quickstart", {"set": {"Muon.lr": []}}, UsageError, "a list of values is empty"),
        ("quickstart", {"set": {"nonsense": [1]}}, RecipeError, "no path 'nonsense'"),
        ("quickstart", {"variants": {"x": {"nonsense": 1}}}, RecipeError, "no path 'nonsense'"),
        ("quickstart", {"variants": {"x": {"Muon.lr": -1}}}, RecipeError, "variant x"),
        ("quickstart", {"seeds": 0}, UsageError, "1 to 1,000 seeds"),
        ("quickstart", {"seeds": [1, 1]}, RecipeError, "different seeds"),
        ("quickstart", {"measure": "bset"}, RecipeError, "measure"),
        ("quickstart", {"text": "missing"}, UsageError, "missing"),
        ("nonsense", {}, UsageError, "nonsense"),
        (bitgolf.part(GreedyForward), {}, UsageError, "expected a recipe or a sweep, got the part GreedyForward"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    recipe: Any, options: dict[str, Any], error: type[BitgolfError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        bitgolf.sweep(recipe, **options, out=tmp_path / "sweep", progress=False)
    assert not (tmp_path / "sweep").exists()


def test_the_folder_of_a_run_is_no_sweep(swept: bitgolf.SweepOutcome) -> None:
    with pytest.raises(UsageError, match="the folder of a run, not of a sweep") as error:
        bitgolf.sweep(swept.best_run().folder)
    assert "reuse=" in error.value.hint


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'sed'"):
        bitgolf.sweep("quickstart", sed=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
