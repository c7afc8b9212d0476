"""`sweep`: all combinations of settings on a run's weights, in a table that a later call continues."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from bitgolf.artifact.model import load_model
from bitgolf.commands.sweep import parse_values, sweep
from bitgolf.errors import BitgolfError, CorruptFileError, FormatVersionError, RecipeError, UsageError
from bitgolf.files import read_checked_json, read_json
from bitgolf.pipeline.outputs import output_digests
from bitgolf.pipeline.state import open_run
from bitgolf.pipeline.trained_run import TrainedRun
from bitgolf.quantize.calibration.stats_file import load_calibration
from bitgolf.report.log import RunLog
from bitgolf.score.text import load_validation
from helpers.command_line import run_command as bitgolf
from helpers.toy_run import finish, run_again

BITS, DAMPING = "quantize.2.use.bits", "quantize.2.use.solver.damping"

VALUE = st.recursive(
    st.sampled_from(["3", "-0.5", "none", "GPTQ", "'a,b'", '"x, (y"', "1e-3"]),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda v: f"Part({', '.join(v)})")
        | st.lists(inner, min_size=1, max_size=3).map(lambda v: f"({','.join(v)},)")
    ),
    max_leaves=6,
)


@given(values=st.lists(VALUE, min_size=1, max_size=4), space=st.sampled_from(["", " "]))
def test_commas_part_values_but_not_within_brackets_or_quotes(values: list[str], space: str) -> None:
    assert parse_values(f"quantize.0.use={f',{space}'.join(values)}") == ("quantize.0.use", values)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("quantize.1.use.bits", "not PATH=VALUE"),
        ("train.steps=3,4", "takes effect before quantization"),
        ("calibrate.source.rows=3,4", "takes effect before quantization"),
        ("quantize.1.use.bits=3,,4", "separated by commas, got"),
        ("quantize.1.use.bits=", "separated by commas, got"),
        ("quantize.1.use.clip=SdClip(k=3", "separated by commas, got"),
        ("quantize.1.use.clip=SdClip(k=3)),(4", "separated by commas, got"),
    ],
)
def test_what_cannot_be_swept_is_wrong_use(assignment: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_values(assignment)


# ---- on a run ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(tmp_path_factory.mktemp("sweep"))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "sweep.jsonl").read_text().splitlines()]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The bits of each encoding."""
    seen: list[str] = []
    original = TrainedRun.encode

    def counted(self: TrainedRun, recipe: Any) -> Any:
        seen.append(f"{recipe[BITS]:g}")
        return original(self, recipe)

    monkeypatch.setattr(TrainedRun, "encode", counted)
    return seen


def test_a_row_says_what_a_run_with_these_settings_would(run: Path) -> None:
    before, scored = files(run), read_json(run / "score.json")
    words = ("sweep", str(run), "--set", f"{BITS}=3,4", "--set", f"{DAMPING}=0.01,0.1", "--score", "--tokens", "99999")
    document = json.loads(bitgolf(*words, "--json").stdout)
    after = files(run)
    assert {name: after[name] for name in after if name != "sweep.jsonl"} == before, "the run must not be changed"
    assert [row["settings"] for row in document["rows"]] == [
        {BITS: bits, DAMPING: damping} for bits in ("3", "4") for damping in ("0.01", "0.1")
    ]
    assert rows_of(run) == [{"format": 2, **row} for row in document["rows"]] and document["paths"] == [BITS, DAMPING]
    assert document["averaged_bpb"] == pytest.approx(scored["bpb"]["averaged"], abs=1e-6)
    own = document["rows"][2]
    assert own["bytes"] == scored["bytes"]["model"] and own["bpb"] == pytest.approx(scored["bpb"]["packed"], abs=1e-6)
    for row in document["rows"]:
        assert (
            row["gap_bpb"] == pytest.approx(row["bpb"] - document["averaged_bpb"], abs=1e-12)
            and row["predicted_gap_bpb"] > 0
        )
    few, many = document["rows"][0], document["rows"][2]
    assert few["bytes"] < many["bytes"] and few["predicted_gap_bpb"] > many["predicted_gap_bpb"]

    again = run_again(run, f"{BITS}=3", first="quantize")
    assert again.bytes.model == few["bytes"] and again.bpb["packed"] == pytest.approx(few["bpb"], abs=1e-6)
    assert predicted(run) == pytest.approx(few["predicted_gap_bpb"], rel=1e-4)


def predicted(folder: Path) -> float:
    """The predicted gap in bpb, computed from the artifact and the calibration by its definition."""
    back, weights = load_model(folder / "artifact.bg").model.state_dict(), load_file(folder / "averaged.safetensors")
    known = load_calibration(folder / "calibration.safetensors")
    nats = sum(known[path].cost(back[path] - weights[path]).sum().item() for path in known)
    text = load_validation(Path(read_json(folder / "inputs.json")["shards"]))
    return nats / math.log(2) * text.num_targets / text.bytes


def test_it_goes_on_where_it_stopped(run: Path, encoded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    original = TrainedRun.encode

    def stopped(self: TrainedRun, recipe: Any) -> Any:
        if recipe[BITS] == 5:
            raise KeyboardInterrupt
        return original(self, recipe)

    monkeypatch.setattr(TrainedRun, "encode", stopped)
    with pytest.raises(KeyboardInterrupt):
        sweep(run, [f"{BITS}=3,5"])
    assert [row["settings"][BITS] for row in rows_of(run)] == ["3"]
    monkeypatch.setattr(TrainedRun, "encode", original)
    encoded.clear()
    document = sweep(run, [f"{BITS}=3,5,4"])
    assert encoded == ["5", "4"] and [row.settings[BITS] for row in document.rows] == ["3", "5", "4"]
    assert all(row.bpb is None and row.predicted_gap_bpb is not None for row in document.rows)
    assert document.averaged_bpb is None
    encoded.clear()
    assert sweep(run, [f"{BITS}=4.0,3"]).rows[0].bytes == document.rows[2].bytes
    assert encoded == [], "4.0 is 4"
    sweep(run, [f"{BITS}=3"], tokens=64)
    assert encoded == ["3"], "a scored row has another key"
    assert len(rows_of(run)) == 4


def test_short_paths_are_those_of_the_row(run: Path, encoded: list[str]) -> None:
    document = sweep(run, ["TrellisCodec.bits=3"])
    assert document.paths == [BITS] and document.rows[0].settings == {BITS: "3"} and encoded == ["3"]
    assert sweep(run, [f"{BITS}=3"]).rows == document.rows
    with pytest.raises(UsageError, match=r"train\.seconds takes effect before quantization"):
        sweep(run, ["seconds=3"])
    with pytest.raises(UsageError, match="each path may be given once"):
        sweep(run, ["TrellisCodec.bits=3", f"{BITS}=4"])


def test_other_weights_are_other_rows(run: Path, encoded: list[str]) -> None:
    sweep(run, [f"{BITS}=3"])
    shutil.copy(run / "trained.safetensors", run / "averaged.safetensors")
    with pytest.raises(CorruptFileError, match=r"averaged\.safetensors has changed"):
        sweep(run, [f"{BITS}=3"])
    opened = open_run(run, RunLog(quiet=True))
    files = output_digests(opened, [opened.files.averaged])
    opened.record(opened.completed | {"average": opened.completed["average"] | {"files": files}})
    sweep(run, [f"{BITS}=3"])
    assert encoded == ["3", "3"] and len({row["key"] for row in rows_of(run)}) == 2


@pytest.mark.parametrize(
    ("sets", "error", "message"),
    [
        ([f"{BITS}=3,9"], RecipeError, "must be .* 7, got 9"),
        ([f"{BITS}=3", f"{BITS}=4"], UsageError, "each path only once, got"),
        ([], UsageError, "each path only once, got"),
        (["quantize.2.use.bit=3"], RecipeError, "did you mean .*bits"),
        (["pack.groups=(StreamGroup(where='gate', name='g'),)"], RecipeError, "gate"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_encoded(
    run: Path, encoded: list[str], sets: list[str], error: type[BitgolfError], message: str
) -> None:
    with pytest.raises(error, match=message):
        sweep(run, sets)
    assert not encoded and not (run / "sweep.jsonl").exists()


def test_a_codec_that_asks_for_calibration_needs_a_run_that_has_one(run: Path, encoded: list[str]) -> None:
    recipe = read_checked_json(run / "recipe.json")
    recipe["calibrate"] = None
    (run / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(RecipeError, match="needs calibration"):
        sweep(run, [f"{BITS}=3"])
    sets = ["quantize.2.use=IntRows(bits=5),IntRows(bits=6)", "quantize.1.use.solver=none"]
    rows = sweep(run, sets).rows
    assert [row.predicted_gap_bpb for row in rows] == [None, None] and rows[0].bytes < rows[1].bytes


def test_a_damaged_table_is_named(run: Path) -> None:
    (run / "sweep.jsonl").write_text('{"format": 2, "key": "a"}\n{"key": \n')
    with pytest.raises(CorruptFileError, match=r"sweep\.jsonl"):
        sweep(run, [f"{BITS}=3"])


def test_a_table_of_an_older_format_is_refused_and_left_alone(run: Path) -> None:
    old = '{"key": "a", "set": {}, "bytes": 1, "loss": null}\n'
    (run / "sweep.jsonl").write_text(old)
    with pytest.raises(FormatVersionError, match=r"sweep\.jsonl: the sweep table has no format number"):
        sweep(run, [f"{BITS}=3"])
    assert (run / "sweep.jsonl").read_text() == old


def test_the_table_for_a_person(run: Path) -> None:
    done = bitgolf("sweep", str(run), "--set", "quantize.1.use.clip=SdClip(k=12),SdClip(k=20)")
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["quantize.1.use.clip", "bytes", "predicted", "gap", "bpb"]
    assert [line.split()[0] for line in lines[2:4]] == ["SdClip(k=12)", "SdClip(k=20)"]
    assert "1 of 2" in done.stderr
    failed = bitgolf("sweep", str(run), "--set", "model.dim=3,4")
    assert failed.returncode == 2 and "takes effect before" in failed.stderr and "Traceback" not in failed.stderr
