"""The commands `sweep RECIPE` and `run --seeds`: options, tables, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.commands.reuse import source_runs
from bitgolf.commands.sweep_runs import SweepOptions, plan_sweep
from bitgolf.config.recipe_file import write_recipe
from bitgolf.config.spec import part
from bitgolf.errors import BitgolfError, RecipeError, UsageError
from bitgolf.files import file_digest, read_json
from bitgolf.submission.imported import IMPORTED_FILE
from bitgolf.sweeps.assignments import parse_seeds, split_values
from bitgolf.sweeps.search.greedy import GreedyForward
from bitgolf.sweeps.summary import SweepSummary
from helpers import damage
from helpers.command_line import run_command
from helpers.forked import ForkedProcess
from helpers.forked_programs import run_python
from helpers.toy_sweeps import BITS, comparable, executed_stages, plain, run_toy_sweep, toy_sweep

RECIPE, *TEXT = damage.toy_source()


def run_json(*words: str) -> dict[str, Any]:
    done = run_command(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_seeds_of_a_recipe_are_one_table(swept: tuple[Path, SweepSummary], tmp_path: Path) -> None:
    words = ["run", RECIPE, *TEXT, "--out", str(tmp_path / "seeds"), "--seeds", "2", "--seed", "1"]
    found = run_json(*words, "--reuse", str(swept[0]))
    (row,) = found["variants"]
    base = next(row for row in swept[1].variants if row.name == "base")
    assert found["seeds"] == [1, 2] and [run["bpb"] for run in row["runs"]] == [run.bpb for run in base.runs[1:]]
    assert row["name"] == "base" and row["difference"] is None and row["deviation"] > 0
    table = run_command(*words)
    assert re.search(r"^base +\d\.\d{5} +\d\.\d{5} ", table.stdout, re.MULTILINE), table.stdout
    assert run_command(*words, "--from", "train").returncode == 2
    refused = run_command("run", row["runs"][0]["run"], "--seeds", "2")
    assert refused.returncode == 2 and "recipe.json --seeds 2" in refused.stderr


def test_variants_of_options(swept: tuple[Path, SweepSummary], tmp_path: Path) -> None:
    """`--set` with one value is for all runs, with several a factor; `--variant` is one with several edits."""
    words = ["sweep", RECIPE, *TEXT, "--out", str(tmp_path / "sweep"), "--seeds", "0,2", "--reuse", str(swept[0])]
    words += ["--set", f"{BITS}=3,3.5", "--set", "pack.cap=39000", "--search", "OneAtATime"]
    words += ["--variant", "strong decay: Muon.weight_decay=0.2; Muon.lr=0.01"]
    found = run_json(*words)
    assert {row["name"] for row in found["variants"]} == {"base", "bits=3", "bits=3.5", "strong decay"}
    assert found["seeds"] == [0, 2] and executed_stages(tmp_path / "sweep")["train"] == 0
    assert {row["name"]: row["settings"] for row in found["variants"]}["bits=3.5"] == {BITS: 3.5}
    done = run_command("sweep", str(tmp_path / "sweep"))
    assert done.returncode == 0 and "Try next:" in done.stdout, "the folder of a sweep is the sweep"
    assert executed_stages(tmp_path / "sweep")["report"] == 8


def test_options_of_reading_the_text_hold_for_all_runs(tmp_path: Path) -> None:
    source, folder = tmp_path / "text.jsonl", tmp_path / "sweep"
    pieces = [file.read_text() for file in sorted(Path(TEXT[1]).glob("*.txt"))]
    source.write_text("\n".join(json.dumps({"body": piece}) for piece in pieces))
    words = ["sweep", RECIPE, "--out", str(folder), "--seeds", "1", "--set", f"{BITS}=3,3.5", "--score-tokens", "0"]
    found = run_json(*words, "--text", str(source), "--key", "body", "--strict", "--steps", "1")
    runs = [run["run"] for row in found["variants"] for run in row["runs"]]
    assert len(runs) == 3 and executed_stages(folder)["prepare"] == 1
    for run in runs:
        inputs = read_json(Path(run) / "inputs.json")
        assert inputs["reading"] == {"key": "body", "skip_null": False, "strict": True}
    changed = run_command(*words, "--text", str(source), "--key", "other")
    assert changed.returncode == 2 and "another text" in changed.stderr
    without = run_command("sweep", RECIPE, "--key", "body", "--out", str(tmp_path / "other"))
    assert without.returncode == 2 and "no effect without --text" in without.stderr
    source.write_text('{"body": 3}\n' + source.read_text())
    strict = run_json(*words[:2], "--out", str(tmp_path / "strict"), "--text", str(source), "--key", "body", "--strict")
    assert "body" in strict["variants"][0]["stopped"]


def test_shards_with_a_tokenizer_elsewhere(swept: tuple[Path, SweepSummary], tmp_path: Path) -> None:
    made = next(swept[0].glob("base-*-s0")) / "data"
    shards, tokenizer = tmp_path / "shards", tmp_path / "elsewhere.model"
    shutil.copytree(made, shards)
    (shards / "tokenizer.model").rename(tokenizer)
    words = ["sweep", RECIPE, "--shards", str(shards), "--seeds", "1", "--steps", "1", "--score-tokens", "0"]
    missing = run_command(*words, "--out", str(tmp_path / "without"))
    assert missing.returncode == 2 and "--tokenizer" in missing.stderr
    (row,) = run_json(*words, "--tokenizer", str(tokenizer), "--out", str(tmp_path / "sweep"))["variants"]
    assert row["runs"][0]["state"] == "done"
    assert read_json(Path(row["runs"][0]["run"]) / "inputs.json")["tokenizer"] == str(tokenizer)


def test_a_sweep_in_a_file_of_the_user(swept: tuple[Path, SweepSummary], tmp_path: Path) -> None:
    file = tmp_path / "sweep_of_user.json"
    write_recipe(file, toy_sweep())
    words = ["sweep", str(file), *TEXT, "--out", str(tmp_path / "sweep"), "--reuse", str(swept[0])]
    assert comparable(run_json(*words)) == comparable(plain(swept[1]))


def test_a_python_file_may_define_a_sweep(tmp_path: Path) -> None:
    file = tmp_path / "sweeps_of_user.py"
    file.write_text(
        "from bitgolf.config.spec import part\n"
        "from bitgolf.recipes import get_recipe\n"
        "from bitgolf.sweeps.factors import Factor, FactorLevel\n"
        "from bitgolf.sweeps.sweep import Sweep\n"
        "def rates():\n"
        "    level = part(FactorLevel, name='low', edits=('Muon.lr=0.01',))\n"
        "    factors = (part(Factor, name='rate', levels=(level,)),)\n"
        "    return part(Sweep, name='rates', recipe=get_recipe('quickstart'), factors=factors)\n"
    )
    sweep = plan_sweep(f"{file}:rates", SweepOptions(seeds="2", search="GreedyForward(margin=0.01)", steps=5))
    assert sweep["seeds"] == (0, 1) and sweep["search"] == part(GreedyForward, margin=0.01) and sweep["steps"] == 5
    with pytest.raises(UsageError, match="there is no sweep named 'other'"):
        plan_sweep(f"{file}:other", SweepOptions())


def test_a_recipe_is_a_sweep_without_factors() -> None:
    sweep = plan_sweep("quickstart", SweepOptions(sets=["Muon.lr=0.01,0.02", "layers=2"], quick=True))
    assert sweep["recipe"]["name"] == "quickstart-quick" and sweep["edits"] == ("model.layers=2",)
    assert [level["name"] for level in sweep["factors.0"]["levels"]] == ["lr=0.01", "lr=0.02"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (SweepOptions(sets=["lr"]), UsageError, "not PATH=VALUE"),
        (SweepOptions(sets=["layers=2,,3"]), UsageError, "separated by commas, got '2,,3'"),
        (SweepOptions(sets=["layers=2,x"]), RecipeError, "expected a whole number"),
        (SweepOptions(sets=["nonsense=2,3"]), RecipeError, "no path 'nonsense'"),
        (SweepOptions(sets=["layers=2,3", "model.layers=4"]), UsageError, "each path may be given once"),
        (SweepOptions(variants=["layers=2"]), UsageError, "expected NAME: PATH=VALUE"),
        (SweepOptions(variants=["x: layers=2;"]), UsageError, "expected NAME: PATH=VALUE"),
        (SweepOptions(variants=["x: layers=2", "x: layers=3"]), RecipeError, "levels with different names, got x, x"),
        (SweepOptions(seeds="0"), UsageError, "1 to 1,000 seeds, got 0"),
        (SweepOptions(seeds="1,1"), UsageError, "seeds must differ"),
        (SweepOptions(seeds="x"), UsageError, "a number of seeds"),
        (SweepOptions(seeds=f"0,{2**63}"), UsageError, "a number of seeds"),
        (SweepOptions(search="Gird"), RecipeError, "Gird"),
        (SweepOptions(search="QKNorm"), RecipeError, "a part of the kind Search"),
        (SweepOptions(gates=["BehindBest(margin=-1)"]), RecipeError, "margin"),
        (SweepOptions(steps=5, seconds=1.0), RecipeError, "either a number of steps or a clock"),
    ],
)
def test_what_is_wrong_is_said(options: SweepOptions, error: type[BitgolfError], message: str) -> None:
    with pytest.raises(error, match=message):
        sweep = plan_sweep("quickstart", options)()
        for factor in sweep.space.factors:
            assert factor.levels


def test_a_trained_run_is_not_trained_again(swept: tuple[Path, SweepSummary]) -> None:
    run = next(swept[0].glob("base-*-s0"))
    refused = run_command("sweep", str(run), "--set", f"{BITS}=3,4", "--seeds", "3")
    assert refused.returncode == 2 and "only quantization and packing are repeated" in refused.stderr
    refused = run_command("sweep", "quickstart", "--set", "Muon.lr=0.1,0.2", "--score")
    assert refused.returncode == 2 and "--score: only the folder of a trained run" in refused.stderr


@given(
    st.lists(st.integers(0, 2**63 - 1), min_size=2, max_size=5, unique=True), st.integers(1, 1000), st.integers(0, 99)
)
def test_seeds_are_a_number_or_a_list(seeds: list[int], count: int, first: int) -> None:
    assert parse_seeds(", ".join(map(str, seeds))) == tuple(seeds)
    assert parse_seeds(str(count), first) == tuple(range(first, first + count))


@given(st.lists(st.sampled_from(["a=1", "b+=Part(x=1; y='z;')", "c=(1,2)", '"x;"']), min_size=1, max_size=4))
def test_edits_are_split_outside_of_brackets_and_quotes(pieces: list[str]) -> None:
    assert split_values("; ".join(pieces), ";") == pieces


# ---- kills ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_that_is_killed_twice_has_the_result_of_one_that_is_not(
    swept: tuple[Path, SweepSummary], tmp_path: Path
) -> None:
    """With one seed of the three: two trainings, and nineteen stages that are executed."""
    file, folder, sweep = tmp_path / "toy_sweep.json", tmp_path / "sweep", toy_sweep(seeds=(0,))
    shutil.copytree(swept[0], tmp_path / "whole", copy_function=shutil.copy2)
    expected = run_toy_sweep(tmp_path / "whole", sweep)
    write_recipe(file, sweep)
    words = ["sweep", str(file), *TEXT, "--out", str(folder)]
    for reached in (4, 14):
        process = ForkedProcess(run_python, ["-m", "bitgolf", *words])
        while process.status is None and executed_stages(folder).total() < reached:
            time.sleep(0.02)
        process.kill()
        assert process.finish().status == -9, "it was killed at work"
    before = executed_stages(folder)
    assert before.total() < 19
    assert comparable(run_json(*words)) == comparable(plain(expected))
    assert executed_stages(folder)["train"] == 2
    for run in folder.glob("*-s0"):
        assert file_digest(run / "artifact.bg") == file_digest(swept[0] / run.name / "artifact.bg")


# ---- other commands on the runs of a sweep -------------------------------------------------------------------------


def test_runs_are_grouped_by_recipe(swept: tuple[Path, SweepSummary]) -> None:
    store = str(swept[0].parent)
    groups = run_json("runs", store, "--group")["groups"]
    assert [group["folder"].split("/")[1].rpartition("-")[0] for group in groups] == [
        row.name.replace(" ", "-") for row in swept[1].variants
    ]
    for group, row in zip(groups, swept[1].variants, strict=True):
        assert (group["mean"], group["deviation"], group["bytes"]) == (row.mean, row.deviation, row.bytes)
        assert group["seeds"] == [0, 1, 2] and group["recipe"] == "toy"
    table = run_command("runs", store, "--group")
    assert table.returncode == 0 and "3 recipes in" in table.stdout
    assert "groups" not in run_json("runs", store) and len(run_json("runs", store)["runs"]) == 9


def test_groups_have_columns_of_their_own(swept: tuple[Path, SweepSummary]) -> None:
    refused = run_command("runs", str(swept[0].parent), "--group", "--columns", "bpb")
    assert refused.returncode == 2 and "--columns bpb: --group has columns of its own" in refused.stderr


def test_a_run_that_was_imported_is_a_run(tmp_path: Path) -> None:
    """Nothing can be taken over from it, nor from what is below it."""
    imported = tmp_path / "imported"
    imported.mkdir()
    (imported / IMPORTED_FILE).write_text("{}")
    assert source_runs([imported]) == (imported,) == source_runs([tmp_path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no run in this folder"):
        source_runs([tmp_path / "empty"])


def test_a_sweep_is_compared_by_variant(swept: tuple[Path, SweepSummary]) -> None:
    document = run_json("compare", str(swept[0]))
    names = [group["name"].rpartition("-")[0] for group in document["groups"]]
    assert names[0] == "base" and set(names) == {"base", "3-bits", "strong-decay"}
    assert all(len(group["runs"]) == 3 for group in document["groups"])
    few = document["settings"][names.index("3-bits") - 1]
    assert [row["path"] for row in few] == [BITS]
