"""A complete run at toy size: its files, its JSON keys, reuse of stages, and single stages run again."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from bitgolf.artifact.ledger import ledger
from bitgolf.artifact.model import load_model
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.files import read_json, write_json
from bitgolf.pipeline.execute import ExecutionOptions, run_recipe
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.pipeline.result import RunResult
from bitgolf.pipeline.stages import STAGE_NAMES
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.coding.roundtrip import decoded_documents
from bitgolf.score.text import load_validation
from bitgolf.tokens.loading import load_tokenizer
from helpers.command_line import run_command
from helpers.forked import ForkedProcess
from helpers.forked_programs import run_forked, run_python
from helpers.toy import toy_recipe

pytestmark = pytest.mark.usefixtures("real_script_sizes")

TEST_WORDS = ("alpha", "beta", "gamma", "delta", "while", "return", "if", "(x)", "= 1", "\n    ", "# note", "é")


def toy_text(folder: Path) -> Path:
    """Write sixty small documents of repeating words."""
    chance = random.Random(7)
    folder.mkdir()
    for i in range(60):
        words = [chance.choice(TEST_WORDS) for _ in range(120)]
        (folder / f"{i:02d}.txt").write_text(" ".join(words) + f" {i}\n")
    return folder


def bitgolf(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command in the process of the tests."""
    done = run_command(*words)
    assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def separate_bitgolf(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, and its workers in others."""
    done = run_forked(*words)
    assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_text(tmp_path_factory.mktemp("text") / "documents")


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "toy.json"
    write_json(path, toy_recipe().to_json())
    return path


@pytest.fixture(scope="module")
def finished(text: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished run of the command in a process of its own: (its folder, its JSON result)."""
    out = tmp_path_factory.mktemp("runs") / "toy"
    done = separate_bitgolf("run", str(recipe_file), "--text", str(text), "--out", str(out), "--json")
    return out, json.loads(done.stdout)


@pytest.fixture
def run_folder(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


@pytest.mark.slow
def test_the_document_has_the_keys_of_the_design(finished: tuple[Path, dict[str, Any]]) -> None:
    out, d = finished
    assert d.keys() >= {
        "run",
        "recipe",
        "hash",
        "seed",
        "device",
        "params",
        "tokens",
        "steps",
        "seconds",
        "bpb",
        "bytes",
        "fits",
        "part_usage",
    }
    assert d["steps"] == 30 and d["tokens"] == 30 * 4 * 32 and d["fits"] is True and d["run"] == str(out)
    assert d["bpb"].keys() == {"trained", "averaged", "packed", "sliding", "adapted"} and d["bpb"]["adapted"] is None
    assert all(0 < d["bpb"][k] < 9 for k in ("trained", "averaged", "packed", "sliding"))
    assert d["bytes"].keys() == {"model", "code", "code_note", "counted", "tokenizer", "total", "self_contained", "cap"}
    assert d["bytes"]["code"] > 10_000 and d["bytes"]["total"] == d["bytes"]["model"]
    assert d["bytes"]["self_contained"] == (out / "artifact.bg").stat().st_size
    assert set(STAGE_NAMES) - {"report"} <= set(d["seconds"])
    clock, trip = d["training_clock"], d["roundtrip"]
    assert d["seconds"]["train"] > clock["train"] > 0, "the stage takes longer than the training clock counts"
    assert d["calibration"] == {"source": "none"} and clock["calibrate"] == clock["limit"] == 0
    assert trip["restored"] is True and set(trip["general_compressors_bpb"]) == {"xz -9e", "zstd -19", "brotli 11"}
    assert {"part", "tensors", "parameters"} <= d["part_usage"][0].keys()
    owned = sum(row["parameters"] for row in d["part_usage"] if " on " not in row["part"])
    ruled = sum(row["parameters"] for row in d["part_usage"] if " on " in row["part"])
    assert owned == ruled == d["params"], "parts own every parameter once, and rules match every parameter once"


def test_the_folder_holds_what_the_design_says(finished: tuple[Path, dict[str, Any]]) -> None:
    out, d = finished
    for name in (
        "recipe.json",
        "environment.json",
        "log.jsonl",
        "run.log",
        "checkpoint",
        "averaged.safetensors",
        "codes",
        "artifact.bg",
        "score.json",
        "report.html",
    ):
        assert (out / name).exists(), name
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert sum(e["event"] == "step" for e in events) == 30
    assert read_json(out / "score.json") == d
    assert f"{d['bpb']['packed']:.4f}" in (out / "report.html").read_text()


def test_the_artifact_alone_gives_the_score_again_on_raw_text(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, d = finished
    alone = tmp_path / "alone.bg"
    shutil.copy(out / "artifact.bg", alone)
    held_out = tmp_path / "held_out.jsonl"
    documents = list(decoded_documents(load_validation(out / "data"), load_tokenizer(out / "data" / "tokenizer.model")))
    held_out.write_text("".join(json.dumps({"text": document.decode()}) + "\n" for document in documents))
    result = json.loads(bitgolf("score", str(alone), "--text", str(held_out), "--with", "sliding", "--json").stdout)
    assert result.keys() >= {"bits", "bytes", "bpb", "targets", "method", "seconds"} and result["method"] == "sliding"
    assert result["bytes"] == sum(map(len, documents)) == d["held_out"]["bytes"]
    assert result["bpb"] == pytest.approx(d["bpb"]["sliding"], rel=1e-9), "raw text and shards must give the same score"


def test_compress_and_decompress_from_separate_processes(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, _ = finished
    source, coded, back = tmp_path / "in", tmp_path / "coded", tmp_path / "back"
    source.write_bytes(bytes(range(256)) + b"alpha beta gamma " * 10)
    d = json.loads(bitgolf("compress", str(out), str(source), str(coded), "--json").stdout)
    assert d.keys() >= {"bytes_in", "bytes_out", "bpb_coded", "bpb_predicted", "seconds"}
    assert d["bytes_out"] == coded.stat().st_size
    separate_bitgolf("decompress", str(out), str(coded), str(back))
    assert back.read_bytes() == source.read_bytes()
    coded.write_bytes(coded.read_bytes()[:-3])
    failed = bitgolf("decompress", str(out), str(coded), str(tmp_path / "none"), code=1)
    assert "damaged" in failed.stderr and "Traceback" not in failed.stderr and not (tmp_path / "none").exists()


def test_generate_and_ledger(finished: tuple[Path, dict[str, Any]]) -> None:
    out, d = finished
    words = ("generate", str(out), "--prompt", "alpha", "--tokens", "12", "--json")
    first = json.loads(bitgolf(*words).stdout)
    assert first["text"].startswith("alpha") and first == json.loads(bitgolf(*words).stdout)
    document = json.loads(bitgolf("ledger", str(out), "--json").stdout)
    assert document["total"] == sum(e["bytes"] for e in document["entries"]) == d["bytes"]["self_contained"]
    assert {"name", "bytes", "elements", "bits_per_element", "coder"} == document["entries"][0].keys()


def again(folder: Path, recipe: Spec[Recipe] | None = None, *, first: str | None = None) -> RunResult:
    from bitgolf.recipes import load_recipe

    recipe = recipe or load_recipe(str(folder), [])
    assert recipe
    return run_recipe(recipe, GivenInputs(seed=0), ExecutionOptions(from_stage=first), argument=folder)


def test_what_is_unchanged_is_reused(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run_folder / "artifact.bg").read_bytes(), read_json(run_folder / "stages.json")
    again(run_folder)
    printed = capsys.readouterr().err
    assert all(f"{stage}: unchanged, reused" in printed for stage in STAGE_NAMES)
    assert before == ((run_folder / "artifact.bg").read_bytes(), read_json(run_folder / "stages.json"))


def test_a_stage_is_done_again_alone_without_training(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bitgolf.recipes import load_recipe

    before = load_model(run_folder / "artifact.bg")
    checkpoint = sorted((run_folder / "checkpoint").iterdir())[-1].stat().st_mtime_ns
    recipe = load_recipe(str(run_folder), ["quantize.1.use.bits=3", "quantize.1.use.clip=SdClip(k=3)", "proof=none"])
    d = again(run_folder, recipe, first="quantize")
    printed = capsys.readouterr().err
    assert "train: unchanged, reused" in printed and "quantize …" in printed
    assert sorted((run_folder / "checkpoint").iterdir())[-1].stat().st_mtime_ns == checkpoint
    after = load_model(run_folder / "artifact.bg")
    assert after.digest != before.digest and after.recipe.quantize[1]["use.bits"] == 3
    assert d.bpb["trained"] != d.bpb["packed"]


def test_starting_after_a_stage_whose_inputs_changed_is_refused(run_folder: Path) -> None:
    from bitgolf.recipes import load_recipe

    with pytest.raises(UsageError, match="--from quantize: the earlier stage train has changed inputs"):
        again(run_folder, load_recipe(str(run_folder), ["train.steps=31"]), first="quantize")


@pytest.mark.parametrize("written", [{"seed": 0, "text": [], "shards": None}, {"seed": 0, "format": 3}])
def test_a_folder_of_an_older_format_is_refused_and_left_alone(run_folder: Path, written: dict[str, Any]) -> None:
    """Each command that opens runs refuses it before it reads the recipe, which this version cannot read."""
    (run_folder / "inputs.json").write_text(json.dumps(written))
    (run_folder / "recipe.json").write_text('{"part": "no.longer.Known"}')
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    sweep = ("sweep", str(run_folder), "--set", "pack.cap=1")
    for words in (("run", str(run_folder)), ("pack", str(run_folder)), ("doctor", str(run_folder)), sweep):
        failed = bitgolf(*words, code=1)
        assert "this version reads format 5" in failed.stderr and str(run_folder) in failed.stderr
    after = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    assert after == before


def test_another_training_does_not_overwrite_this_one(run_folder: Path) -> None:
    from bitgolf.recipes import load_recipe

    with pytest.raises(UsageError, match="another recipe"):
        again(run_folder, load_recipe(str(run_folder), ["train.steps=31"]))
    assert again(run_folder).steps == 30


def test_over_the_cap_is_exit_1_with_the_ledgers_advice(run_folder: Path) -> None:
    failed = bitgolf("run", str(run_folder), "--set", "pack.cap=9000", "--from", "pack", code=1)
    assert "over the cap of 9,000" in failed.stderr and "cut " in failed.stderr and "Traceback" not in failed.stderr


def test_a_damaged_checkpoint_is_named(run_folder: Path) -> None:
    for path in (run_folder / "checkpoint").glob("step-*"):
        path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BitgolfError, match=r"damaged|checkpoint"):
        again(run_folder, first="average")


def test_the_ledger_of_a_read_artifact_sums_to_the_file(run_folder: Path) -> None:
    from bitgolf.artifact.container import read_artifact

    path = run_folder / "artifact.bg"
    assert sum(e.bytes for e in ledger(read_artifact(path))) == path.stat().st_size


@pytest.mark.slow
def test_a_run_that_was_killed_resumes_to_the_same_artifact(
    finished: tuple[Path, dict[str, Any]], text: Path, recipe_file: Path, tmp_path: Path
) -> None:
    """SIGKILL during training. Without --resume, nothing is overwritten; with it, the artifact is identical."""
    out = tmp_path / "killed"
    words = ["run", str(recipe_file), "--text", str(text), "--out", str(out), "--set", "train.checkpoint_seconds=0"]
    process = ForkedProcess(run_python, ["-m", "bitgolf", *words])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list((out / "checkpoint").glob("step-*"))) < 2:
        time.sleep(0.005)
    process.kill()
    process.finish()
    assert not (out / "artifact.bg").exists(), "the process ended before it was killed"
    refused = bitgolf(*words, code=2)
    assert "--resume continues" in refused.stderr
    with_proof = bitgolf(
        *words,
        "--resume",
        "--set",
        "proof=none",
        "--set",
        "score=(ContiguousScoring(window=32), SlidingScoring(window=32, stride=16))",
    )
    assert "resumed after step" in with_proof.stderr
    assert (out / "artifact.bg").read_bytes() == (finished[0] / "artifact.bg").read_bytes()


@pytest.mark.slow
def test_two_processes_train_to_the_same_model_and_calibrate_it(
    finished: tuple[Path, dict[str, Any]], text: Path, recipe_file: Path, tmp_path: Path
) -> None:
    words = (
        "run",
        str(recipe_file),
        "--text",
        str(text),
        "--out",
        str(tmp_path / "two"),
        "--devices",
        "2",
        "--device",
        "cpu",
    )
    gptq = (
        "--set",
        "quantize.1.use.solver=GPTQ()",
        "--set",
        "calibrate=Calibrate(source=TrainingText(batches=3, rows=2))",
    )
    d = json.loads(bitgolf(*words, *gptq, "--set", "proof=none", "--json").stdout)
    assert d["calibration"]["tokens"] == 3 * 2 * 32 and d["calibration"]["processes"] == 2
    assert d["training_clock"]["total"] == pytest.approx(
        d["training_clock"]["train"] + d["training_clock"]["calibrate"], abs=0.02
    )
    assert d["training_clock"]["calibrate"] > 0 and d["bpb"]["packed"] == pytest.approx(d["bpb"]["averaged"], rel=1e-2)
    assert d["bpb"]["trained"] == pytest.approx(finished[1]["bpb"]["trained"], rel=1e-4)
    assert read_json(tmp_path / "two" / "train.json")["processes"] == 2


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    text: Path, recipe_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "none"
    done = bitgolf("run", str(recipe_file), "--text", str(text), "--out", str(out), "--device", "tpu", code=2)
    assert "unknown device 'tpu'" in done.stderr and "use auto or cuda or mps or cpu" in done.stderr
    assert not out.exists()
