"""`bitgolf doctor` on a finished run at toy size: its result, and its findings in a damaged folder."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save

from bitgolf.commands import doctor
from bitgolf.commands.doctor_table import doctor_table
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.errors import UsageError
from bitgolf.files import read_checked_json, write_bytes
from bitgolf.model.parameters import load_weights, parameter_roles
from bitgolf.pipeline.compression import load_meta_model
from bitgolf.pipeline.execute import run_recipe
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.pipeline.state import Run
from bitgolf.quantize.calibration.calibrate import Calibrate
from bitgolf.quantize.calibration.sources import TrainingText
from bitgolf.quantize.calibration.stats_file import load_calibration, save_calibration
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.encoding import decode_model, load_encoded, save_encoded
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from bitgolf.runtime.device import select_device
from bitgolf.score.player import StaticPlayer
from bitgolf.score.referee import score
from bitgolf.score.text import load_validation
from helpers.command_line import run_command
from helpers.toy import toy_recipe
from helpers.toy_training import make_data

TOKENS = 512


def calibrated() -> Spec[Recipe]:
    recipe = toy_recipe(steps=20).set("proof", None)
    recipe = recipe.set("calibrate", part(Calibrate, source=part(TrainingText, batches=8, rows=4)))
    rules = (*recipe["quantize"][:1], part(Rule, where="*", use=part(TrellisCodec, bits=4.0, states=8)))
    return recipe.set("quantize", rules)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "toy"
    data = make_data(tmp_path_factory.mktemp("data"))
    run_recipe(calibrated(), GivenInputs(shards=data, seed=0), out=out)
    return out


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def found(folder: Path) -> dict[str, doctor.RunFinding]:
    """Findings by rule."""
    return {finding.rule: finding for finding in doctor.diagnose_run(folder, tokens=TOKENS, per_tensor=False).findings}


def test_the_document_of_a_healthy_run(finished: Path) -> None:
    done = run_command("doctor", str(finished), "--tokens", str(TOKENS), "--json")
    assert done.returncode == 0, done.stderr
    d = json.loads(done.stdout)
    assert d.keys() >= {"run", "tensors", "summed_bpb", "gap_bpb", "explained_share", "findings", "passes"}
    assert d["findings"] == [] and d["passes"] is True and d["tokens"] == TOKENS
    weights = load_file(finished / "averaged.safetensors")
    assert {t["path"] for t in d["tensors"]} == set(weights)
    assert sum(c["tensors"] for c in d["tensor_groups"]) == len(weights)
    predicted = [t["predicted_gap_bpb"] or 0.0 for t in d["tensors"]]
    assert predicted == sorted(predicted, reverse=True) and predicted[0] > 0
    assert d["predicted_gap_bpb"] == pytest.approx(sum(predicted))
    assert d["summed_bpb"] == pytest.approx(sum(c["measured_gap_bpb"] for c in d["tensor_groups"]))
    assert d["explained_share"] == pytest.approx(d["summed_bpb"] / d["gap_bpb"])
    table = doctor_table(msgspec.convert(d, doctor.DoctorResult))
    assert "no findings" in table and f"{d['gap_bpb']:+.5f}" in table and "embed.weight" in table


def test_costs_are_those_that_the_referee_finds(finished: Path) -> None:
    """The gap of all tensors and that of the embedding alone are computed independently."""
    d = doctor.diagnose_run(finished, tokens=TOKENS, per_tensor=True)
    recipe, shards = calibrated(), json.loads((finished / "inputs.json").read_text())["shards"]
    run = Run(recipe, finished, RunLog(quiet=True), shards=Path(shards))
    weights, codes = (
        load_file(finished / "averaged.safetensors"),
        load_encoded(finished / "codes" / "codes.safetensors"),
    )
    kinds, shapes = parameter_roles(load_meta_model(run)), {path: tuple(w.shape) for path, w in weights.items()}
    decoded = decode_model(codes, shapes, kinds, recipe["quantize"])
    text = load_validation(run.data_folder)

    def bpb(state: dict[str, torch.Tensor]) -> float:
        model = load_meta_model(run)
        load_weights(model, state)
        player = StaticPlayer(model, model.embed.weight.shape[0], select_device())
        bits = score(player, text.head(TOKENS), recipe["score"][0]()).bits
        return bits / (TOKENS * text.bytes / text.num_targets)

    assert d.averaged_bpb == pytest.approx(bpb(weights), rel=1e-6)
    assert d.gap_bpb == pytest.approx(bpb(decoded) - bpb(weights), abs=1e-6)
    alone = bpb({**weights, "embed.weight": decoded["embed.weight"]}) - bpb(weights)
    (row,) = [t for t in d.tensors if t.path == "embed.weight"]
    assert row.measured_gap_bpb == pytest.approx(alone, abs=1e-6)
    error = decoded["embed.weight"] - weights["embed.weight"]
    nats = float(load_calibration(finished / "calibration.safetensors")["embed.weight"].cost(error).sum())
    assert row.predicted_gap_bpb == pytest.approx(nats / math.log(2) / (text.bytes / text.num_targets), rel=1e-5)
    assert len(d.tensor_groups) == len(weights) and all(t.measured_gap_bpb is not None for t in d.tensors)


def test_a_folder_with_other_weights(folder: Path) -> None:
    path = folder / "averaged.safetensors"
    write_bytes(path, save({name: 1.1 * w for name, w in load_file(path).items()}))
    finding = found(folder)["stale-stage"]
    assert finding.severity == "error" and "with other weights" in finding.message


def test_a_calibration_of_another_model(folder: Path) -> None:
    path = folder / "calibration.safetensors"
    stats = load_calibration(path)
    save_calibration(path, {k: s._replace(hessian=s.hessian.flip(0).flip(1)) for k, s in stats.items()})
    findings = found(folder)
    assert findings["other-model"].severity == "error"
    assert "quantize" in findings["stale-stage"].message, "the codes were made with another calibration"


def test_codes_that_are_not_the_artifacts(folder: Path) -> None:
    path = folder / "codes" / "codes.safetensors"
    codes = load_encoded(path)
    codes["blocks.0.mlp.up.weight"]["codes"][0, 0] ^= 1
    save_encoded(path, codes)
    finding = found(folder)["not-as-packed"]
    assert finding.where == "blocks.0.mlp.up.weight" and finding.severity == "error"


def test_a_damaged_artifact_and_none(folder: Path) -> None:
    path = folder / "artifact.bg"
    path.write_bytes(path.read_bytes()[:-9])
    document = doctor.diagnose_run(folder, tokens=TOKENS, per_tensor=False)
    (finding,) = document.findings
    assert finding.rule == "not-as-packed" and document.passes is False
    assert finding.message in doctor_table(document)
    path.unlink()
    (finding,) = found(folder).values()
    assert finding.rule == "not-packed" and finding.severity == "note"


def test_a_dead_rule_is_told_not_raised(folder: Path) -> None:
    recipe = read_checked_json(folder / "recipe.json")
    recipe["quantize"].insert(0, {**recipe["quantize"][0], "where": "head"})
    (folder / "recipe.json").write_text(json.dumps(recipe))
    assert found(folder)["dead-rule"].where == "quantize.0"


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"recipe.json is missing"):
        doctor.diagnose_run(tmp_path, tokens=TOKENS, per_tensor=False)


def test_predictions_are_compared_with_what_was_measured_with_certainty() -> None:
    def group(name: str, predicted: float | None, measured: float, error: float) -> doctor.TensorGroupCost:
        return doctor.TensorGroupCost(
            name=name,
            tensors=1,
            predicted_gap_bpb=predicted,
            measured_gap_bpb=measured,
            standard_error_bpb=error,
        )

    right = [group("a", 0.010, 0.019, 0.001), group("b", 0.010, 0.006, 0.001)]
    unsure = [group("c", 0.001, 0.010, 0.004), group("floats", None, 0.010, 0.001)]
    assert doctor.poor_predictions([*right, *unsure]) == []
    low, lowest = group("d", 0.010, 0.021, 0.001), group("table", 0.0007, 0.021, 0.002)
    (found,) = doctor.poor_predictions([*right, *unsure, low, lowest])
    assert found.rule == "poor-prediction" and found.where == "d and 1 more"
    assert "quantization of table costs 0.02100 bpb (standard error 0.00200), 30 times" in found.message
    (high,) = doctor.poor_predictions([group("e", 0.010, 0.004, 0.001)])
    assert "0.4 times" in high.message
