"""Benchmarks that train run on any text, keep the lines of different texts apart, and print tables of published lines."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import ablate
import clock_steps
import compression
import corpus
import data_make
import hessians
import last_phase
import pytest
import recipes_by_cap
import row_prior
import scoring
from result_lines import read_lines

from bitgolf.config.recipe_file import read_recipe
from bitgolf.config.spec import part
from bitgolf.quantize.tuning import FloatTuning
from bitgolf.recipes import get_recipe
from helpers.small_recipes import small_recipe
from helpers.toy_training import short_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path / "text", 0)


def write_text(folder: Path, shift: int) -> Path:
    folder.mkdir()
    for i in range(40):
        words = [f"word{(7 * i + j * j + shift) % 397}" for j in range(400)]
        (folder / f"{i}.txt").write_text(" ".join(words))
    return folder


def run(module: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> None:
    """The benchmark as a command, in a folder that has nothing else."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [module.__name__, *words])
    module.main()


def options(folder: Path, *text: Path) -> argparse.Namespace:
    return argparse.Namespace(text=list(text) or None, data=folder)


def test_a_text_that_does_not_exist_is_named_and_the_published_one_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as error:
        run(ablate, monkeypatch, tmp_path, "--text", "nowhere.jsonl", "--steps", "1")
    assert "nowhere.jsonl does not exist" in str(error.value) and corpus.ENGLISH in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_each_text_has_an_identifier_and_shards_are_made_once(tmp_path: Path, text: Path) -> None:
    folder = corpus.shards_folder(options(tmp_path / "shards", text))
    made = (folder / "manifest.json").stat().st_mtime_ns
    assert corpus.shards_folder(options(folder, text)) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == made
    again = corpus.shards_folder(options(tmp_path / "again", text))
    other = corpus.shards_folder(options(tmp_path / "other", write_text(tmp_path / "text2", 1)))
    assert corpus.corpus_id(folder) == corpus.corpus_id(again) != corpus.corpus_id(other)


@pytest.mark.slow
def test_ablation_runs_goes_on_and_keeps_texts_apart(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("--steps", "1", "--tokens", "512", "--seeds", "0")
    run(ablate, monkeypatch, tmp_path, "--text", str(text), *small, "--techniques", "base")
    run(ablate, monkeypatch, tmp_path, "--text", str(text), *small, "--techniques", "base", "SquaredLeakyReLU")
    lines = read_lines(tmp_path / "runs" / "ablation.jsonl")
    assert [line["technique"] for line in lines] == ["base", "SquaredLeakyReLU"]
    assert all(0 < line["bpb"][kind] < 20 for line in lines for kind in ("float", "int6"))
    assert len({line["corpus"] for line in lines}) == 1 and lines[0]["hash"] != lines[1]["hash"]
    write_text(tmp_path / "text2", 1)
    run(ablate, monkeypatch, tmp_path, "--text", "text2", *small, "--techniques", "base")
    assert len({line["corpus"] for line in read_lines(tmp_path / "runs" / "ablation.jsonl")}) == 2


def test_data_make_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--megabytes", "1", "--kinds", "bytes", "--processes", "1", "--results", str(tmp_path / "data.jsonl"))
    run(data_make, monkeypatch, tmp_path, *words)
    (line,) = read_lines(tmp_path / "data.jsonl")
    assert 1_000_000 <= line["bytes"] < 2_200_000 and line["kind"] == "bytes" and line["processes"] == 1
    assert line["megabytes_per_second"] == pytest.approx(line["bytes"] / line["seconds"] / 1e6, rel=0.05)
    assert 20 < line["peak_memory_megabytes"] < 2_000


@pytest.mark.exhaustive
def test_recipes_are_compared_at_a_cap_and_a_finished_run_is_not_repeated(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = ("--tiny", "--text", str(text), "--caps", "250000", "--recipes", "bitgolf_small", "--seeds", "0")
    monkeypatch.setattr(recipes_by_cap, "VOCABULARIES", {250_000: 300})
    run(recipes_by_cap, monkeypatch, tmp_path, *words)
    out = tmp_path / "runs" / "recipes.jsonl"
    (line,) = read_lines(out)
    assert all(0 < line["bpb"][stage] < 20 for stage in recipes_by_cap.STAGES)
    assert 0 < line["bytes"] <= 250_000 and line["cap"] == 250_000 and line["recipe"] == "bitgolf_small"
    monkeypatch.setattr(recipes_by_cap, "measure", lambda *_: pytest.fail("the run has a line"))
    run(recipes_by_cap, monkeypatch, tmp_path, *words)
    capsys.readouterr()
    run(recipes_by_cap, monkeypatch, tmp_path, "--table", str(out))
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 3 and table[2].startswith(f"| bitgolf_small | 250,000 | {line['params']:,} |")


def test_a_run_is_trained_packed_to_the_cap_and_scored_by_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last command has the recipe that `pack` wrote, in the folder of the run, so that nothing is trained again."""
    called: list[tuple[str, ...]] = []

    def command(*words: str) -> dict[str, Any]:
        called.append(words)
        if words[0] == "pack":
            return {"recipe": "packed.json", "bytes": 249_990, "log2_step_scale": -0.5}
        bpb = dict.fromkeys(recipes_by_cap.STAGES, 1.5 if "packed.json" in words else None)
        return {
            "bpb": bpb,
            "params": 7,
            "steps": 9,
            "tokens": 99,
            "hash": "h",
            "scored": {},
            "seconds": {words[1]: 1.0},
        }

    monkeypatch.setattr(recipes_by_cap, "bitgolf", command)
    monkeypatch.setattr(recipes_by_cap, "forecast", lambda recipe, vocab: recipe["model.dim"] * 1000)
    setting = recipes_by_cap.CommonSettings(2.0, 10, 2_000, 4, 64, {})
    (small,) = (one for one in recipes_by_cap.CONTENDERS if one.name == "bitgolf_small, tuned floats")
    line = recipes_by_cap.measure(small, 250_000, 3, setting, tmp_path / "data", tmp_path)
    (stored,) = tmp_path.glob("250000-bitgolf_small-tuned-floats-*-3.json")
    folder = str(stored.with_suffix(""))
    inputs = ("--shards", str(tmp_path / "data"), "--out", folder, "--seed", "3", "--resume", "--score-tokens")
    assert called == [
        ("run", str(stored), *inputs, "0"),
        ("pack", folder, "--cap", "250000"),
        ("run", "packed.json", *inputs, "2000"),
    ]
    assert line["bpb"]["adapted"] == 1.5 and line["bytes"] == 249_990 and line["dim"] == 240
    assert read_recipe(stored)["tune.steps"] == 30


def test_steps_stand_for_the_clock_and_are_the_same_for_all_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, measured = get_recipe("pr1855").set("train.seconds", 1000.0).set("train.rows", 64), iter([0.1, 0.2])
    monkeypatch.setattr(clock_steps, "step_seconds", lambda *_: next(measured))
    calibration = 1.1 * recipe["calibrate.source.batches"] * recipe["calibrate.source.rows"] / 64
    assert recipes_by_cap.stored_steps(recipe, 300, tmp_path / "steps.json") == int(10_000 - calibration) > 1
    assert recipes_by_cap.stored_steps(recipe, 300, tmp_path / "steps.json") == int(10_000 - calibration) > 1
    tuned = get_recipe("quickstart").replace(tune=part(FloatTuning, reserve=30.0))
    assert clock_steps.steps_in(tuned.replace(calibrate=None), 300) == int((tuned["train.seconds"] - 30) / 0.2)
    stepped = clock_steps.by_steps(tuned, 7)
    assert (stepped["train.seconds"], stepped["train.steps"]) == (0.0, 7)


def test_a_step_is_timed_in_each_part_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_steps, "ROUNDS", 1)
    recipe = short_recipe()
    found = list[float]()
    monkeypatch.setattr(clock_steps.Trainer, "step", lambda self, step, progress: found.append(progress.fraction))
    assert 0 <= clock_steps.step_seconds(recipe, 300) < 1
    assert found == pytest.approx([(k + 0.5) / clock_steps.PARTS for k in range(clock_steps.PARTS)])


def test_runs_without_a_line_are_those_that_remain() -> None:
    options = argparse.Namespace(
        seeds=[0, 1], caps=[250_000], recipes=["baseline", "pr1855"], seconds=300.0, by_steps=False
    )
    done = [{"corpus": "a", "cap": 250_000, "seconds": 300.0, "by_steps": False, "seed": 0, "recipe": "baseline"}]
    left = [(cap, seed, one.name) for cap, seed, one in recipes_by_cap.pending(done, options, {250_000: "a"})]
    assert left == [(250_000, 0, "pr1855"), (250_000, 1, "baseline"), (250_000, 1, "pr1855")]
    other = [one.name for _, _, one in recipes_by_cap.pending(done, options, {250_000: "other text"})]
    assert len(other) == 4


@pytest.mark.exhaustive
def test_the_prior_of_rows_is_measured(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    small = ("--steps", "2", "--buckets", "64", "--width", "8", "--bits", "3", "--states", "1", "--tokens", "1024")
    run(row_prior, monkeypatch, tmp_path, "--text", str(text), *small, "--seeds", "0")
    table = capsys.readouterr().out
    lines = read_lines(tmp_path / "runs" / "row_prior.jsonl")
    assert {line["prior"] for line in lines} == {"with", "without"}
    assert {"all", "embed.weight", "post_embed.1.table.weight"} <= {line["tensor"] for line in lines}
    assert all(line["divergence"] >= 0 for line in lines) and table.count("| all | 3 |") == 2


@pytest.mark.parametrize(
    ("module", "file", "document"),
    [
        (compression, "compression.jsonl", "measurements.md"),
        (ablate, "ablation.jsonl", "techniques.md"),
        (row_prior, "row_prior.jsonl", "measurements.md"),
        (recipes_by_cap, "recipes_by_cap.jsonl", "measurements.md"),
    ],
)
def test_published_lines_print_as_the_table_of_the_documents(
    module: Any, file: str, document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run(module, monkeypatch, tmp_path, "--table", str(ROOT / "results" / file))
    table = capsys.readouterr().out.strip()
    assert (
        len(table.splitlines()) > 10 and "not measured" not in table and table in (ROOT / "docs" / document).read_text()
    )
    assert list(tmp_path.iterdir()) == []


def test_the_picture_is_drawn_from_the_published_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import plot_compression

    lines = [json.loads(line) for line in (ROOT / "results" / "compression.jsonl").read_text().splitlines()]
    points = plot_compression.points(lines)
    published, ours = points["GPTQ int6, SdClip, Brotli"], points["all of ours"]
    assert published.megabytes == pytest.approx(2.301046, abs=1e-6) and published.bpb > ours.bpb > 1.78
    results = str(ROOT / "results" / "compression.jsonl")
    for name in ("a.svg", "b.svg"):
        run(plot_compression, monkeypatch, tmp_path, results, "--out", str(tmp_path / name))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()


@pytest.mark.exhaustive
def test_every_benchmark_that_trains_runs_with_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """On the default text, in an empty folder, at the smallest size."""
    run(ablate, monkeypatch, tmp_path, "--steps", "1", "--tokens", "512", "--seeds", "0", "--techniques", "base")
    small = ("--steps", "1", "--tokens", "1024", "--seeds", "0", "--calibration-batches", "1")
    run(compression, monkeypatch, tmp_path, *small, "--schemes", "all of ours", "fewest bytes")
    assert "| all of ours |" in capsys.readouterr().out
    run(scoring, monkeypatch, tmp_path, "--steps", "1", "--targets", "512", "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["method"] for line in lines] == ["contiguous", "sliding", "cached"]
    assert len({line["corpus"] for line in lines}) == 1 and all(line["targets"] == 512 for line in lines)


@pytest.mark.slow
def test_the_last_phase_is_repeated_from_one_state_and_hessians_are_compared_at_its_end(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_phase, "AVERAGES", {name: last_phase.AVERAGES[name] for name in ("EMA 0.8", "none")})
    monkeypatch.setattr(last_phase, "get_recipe", lambda name: small_recipe(get_recipe(name)))
    small = ("--steps", "10", "--every", "1", "--tokens", "512", "--seeds", "0", "--bits", "2")
    run(last_phase, monkeypatch, tmp_path, "--text", str(text), *small)
    lines = read_lines(tmp_path / "runs" / "last_phase.jsonl")
    assert [(line["phase"], line["average"]) for line in lines] == [(0.0, "EMA 0.8"), (0.0, "none"), (2.0, "EMA 0.8")]
    assert all(0 < line["packed"] < 8 and line["predicted"] >= 0 for line in lines)
    assert lines[0]["packed"] != lines[2]["packed"] and len(list((tmp_path / "runs" / "last_phase").iterdir())) == 1
    run(last_phase, monkeypatch, tmp_path, "--text", str(text), *small)
    assert read_lines(tmp_path / "runs" / "last_phase.jsonl") == lines
    assert last_phase.table(lines).count("\n") == 4 and "| 2 | rounded | EMA 0.8 |" in last_phase.table(lines)
    same = ("--steps", "10", "--tokens", "512", "--seeds", "0", "--scales", "1")
    run(hessians, monkeypatch, tmp_path, "--text", str(text), *same)
    lines = read_lines(tmp_path / "runs" / "hessians.jsonl")
    assert [line["scheme"] for line in lines] == [scheme.name for scheme in hessians.SCHEMES]
    assert all(abs(line["bytes"] / lines[0]["bytes"] - 1) < 0.05 for line in lines)
    assert len({line["packed"] for line in lines}) == len(lines), "each has its own statistics"
    run(hessians, monkeypatch, tmp_path, "--text", str(text), *same)
    assert read_lines(tmp_path / "runs" / "hessians.jsonl") == lines
