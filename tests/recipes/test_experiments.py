"""Experiments on published systems: counts and results as published, short differences, and a step of training."""

from __future__ import annotations

import json
import math
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from bitgolf.artifact.model import load_model
from bitgolf.commands.show import describe_recipe
from bitgolf.commands.show_table import show_table
from bitgolf.config.edits import diff
from bitgolf.config.parse import apply_assignment, from_json
from bitgolf.config.spec import Spec
from bitgolf.data.orders import ShuffledDocuments
from bitgolf.model.build import build_on_meta
from bitgolf.pipeline.averaging import average
from bitgolf.pipeline.calibration import calibrate
from bitgolf.pipeline.compression import pack, quantize
from bitgolf.pipeline.data import prepare
from bitgolf.pipeline.state import Run
from bitgolf.pipeline.training import train
from bitgolf.recipes import describe, experiment_names, get_recipe, published_bpb, recipe_names
from bitgolf.recipes.identity import recipe_hash
from bitgolf.recipes.quick import QUICK_DIM, quick
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.score.referee import score
from bitgolf.score.text import TokenizedText, append_final_bos, load_validation
from helpers.small_recipes import VOCAB, small_recipe
from helpers.toy_training import make_data, make_trainer

EXPERIMENTS = experiment_names()
CPU = Device(torch.device("cpu"), torch.float32, "a test")

# Parameters; published bits per byte before quantization, as packed, with sliding windows, and adapted; bytes. From the
# logs of the branch.
LOGGED: dict[str, tuple[int, float, float, float, float, int]] = {
    "pr1512_v12": (37_422_684, 1.0908, 1.10505, 1.09553, 0, 16_537_005),
    "pr1512_v13_no_values": (36_341_337, 1.0895, 1.10547, 1.09553, 0, 15_844_725),
    "pr1512_v13_12_layers": (38_826_080, 1.0886, 1.14302, 1.1331, 0, 15_990_770),
    "pr1493_decay": (35_944_536, 1.0865, 1.09951, 1.08269, 1.08029, 16_031_886),
    "pr1493_strong_decay_paired_heads": (35_944_536, 1.08573, 1.09874, 1.08194, 1.07971, 16_030_578),
    "pr1493_multi_token": (35_944_536, 1.11283, 1.12678, 1.11018, 1.09023, 16_035_001),
    "pr1493_smear": (35_945_048, 1.08601, 1.09834, 1.0817, 1.07998, 16_035_853),
    "pr1851_strong_decay": (35_945_671, 1.06429, 1.07403, 0, 1.06111, 15_948_542),
    "pr1851_run_4": (35_945_671, 1.06331, 1.07239, 0, 1.0595, 16_140_607),
    "pr1851_run_6": (35_945_671, 1.06335, 1.07246, 0, 1.05957, 15_901_624),
}

# Experiment -> the recipe that it varies, and the largest number of settings in which it differs from it.
VARIES: dict[str, tuple[str, int]] = {
    "pr1512_window_512": ("pr1019", 1),
    "pr1512_window_256": ("pr1019", 1),
    "pr1512_length_4096": ("pr1512", 2),
    "pr1512_multi_token": ("pr1512_window_256", 2),
    "pr1512_cautious_decay": ("pr1512_window_256", 1),
    "pr1512_v12": ("pr1512", 22),
    "pr1512_v13_no_values": ("pr1512_v12", 2),
    "pr1512_v13_no_bigrams": ("pr1512_v12", 1),
    "pr1512_v13_adapted": ("pr1512_v13_no_values", 1),
    "pr1512_v13_parallel": ("pr1512_v13_no_values", 1),
    "pr1512_v13_loop_of_3": ("pr1512_v13_no_values", 1),
    "pr1512_v13_rates_of_1493": ("pr1512_v13_no_values", 2),
    "pr1512_v13_no_values_no_bigrams": ("pr1512_v13_no_values", 5),
    "pr1512_v13_12_layers": ("pr1512_v13_no_values_no_bigrams", 3),
    "pr1512_v13_width_528": ("pr1512_v13_no_values_no_bigrams", 2),
    "pr1493_longer_adaptation": ("pr1493", 2),
    "pr1493_document_shuffle": ("pr1493_longer_adaptation", 1),
    "pr1493_decay": ("pr1493_longer_adaptation", 3),
    "pr1493_strong_decay": ("pr1493_longer_adaptation", 3),
    "pr1493_paired_heads": ("pr1493_longer_adaptation", 2),
    "pr1493_decay_paired_heads": ("pr1493_decay", 2),
    "pr1493_strong_decay_paired_heads": ("pr1493_strong_decay", 2),
    "pr1493_decay_paired_heads_shared_hessians": ("pr1493_decay_paired_heads", 1),
    "pr1493_decay_paired_heads_short_calibration": ("pr1493_decay_paired_heads", 1),
    "pr1493_head_mixing": ("pr1493_longer_adaptation", 1),
    "pr1493_decay_paired_heads_head_mixing": ("pr1493_decay_paired_heads", 1),
    "pr1493_multi_token": ("pr1493_longer_adaptation", 1),
    "pr1493_evaluation_loops": ("pr1493_longer_adaptation", 1),
    "pr1493_smear": ("pr1493_strong_decay_paired_heads", 2),
    "pr1493_smear_head_gate": ("pr1493_smear", 1),
    "pr1493_smear_channel_gate": ("pr1493_smear", 1),
    "pr1493_key_offset": ("pr1493", 1),
    "pr1493_qat_from_28": ("pr1493", 3),
    "pr1493_qat_from_55": ("pr1493", 3),
    "pr1493_qat_from_85": ("pr1493", 3),
    "pr1851_strong_decay": ("pr1851", 3),
    "pr1851_shared_hessians": ("pr1851", 1),
    "pr1851_decay_shared_hessians": ("pr1851_shared_hessians", 3),
    "pr1851_strong_decay_shared_hessians_paired_heads": ("pr1851_shared_hessians", 5),
    "pr1851_run_4": ("pr1851_strong_decay", 12),
    "pr1855_run_5": ("pr1855", 4),
    "pr1851_run_6": ("pr1851_run_4", 8),
}

# Those that have a step of training in `make test`; the steps of the others differ in numbers only.
STEPPED = {
    "pr1512_window_512", "pr1512_length_4096", "pr1512_multi_token", "pr1512_cautious_decay", "pr1512_v12", "pr1512_v13_no_values_no_bigrams", "pr1512_v13_12_layers", "pr1493_document_shuffle", "pr1493_multi_token",
    "pr1493_decay_paired_heads_head_mixing", "pr1493_evaluation_loops", "pr1493_smear_head_gate",
    "pr1493_smear_channel_gate", "pr1493_key_offset", "pr1493_qat_from_85", "pr1851_strong_decay_shared_hessians_paired_heads",
    "pr1851_run_6",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@cache
def count(model: Spec[Any], vocab: int) -> int:
    return sum(p.numel() for p in build_on_meta(model, vocab).parameters())


def published(name: str) -> dict[str, Any]:
    return get_recipe(name)().published or {}


def test_every_experiment_is_written_as_a_short_difference() -> None:
    assert VARIES.keys() == set(EXPERIMENTS)
    for name, (base, most) in VARIES.items():
        found = [path for path, _, _ in diff(get_recipe(base), get_recipe(name)) if not path.startswith(("name", "published"))]  # fmt: skip
        assert 1 <= len(found) <= most, (name, found)


def test_experiments_stand_apart_from_the_published_systems() -> None:
    assert not set(EXPERIMENTS) & set(recipe_names()) and len(EXPERIMENTS) == 42
    hashes = {recipe_hash(get_recipe(name)) for name in (*recipe_names(), *EXPERIMENTS)}
    assert len(hashes) == len(recipe_names()) + len(EXPERIMENTS), "no two are the same"
    for name in EXPERIMENTS:
        recipe = get_recipe(name)
        again: Spec[Recipe] = from_json(json.loads(json.dumps(recipe.to_json())))
        assert again == recipe and recipe().name == name and describe(name).endswith(".")


def test_counts_are_those_of_the_logs() -> None:
    for name in EXPERIMENTS:
        recipe = get_recipe(name)
        assert count(recipe["model"], recipe["tokens.vocab"]) == published(name)["params"], name


@pytest.mark.parametrize("name", LOGGED)
def test_results_are_those_of_the_logs(name: str) -> None:
    params, averaged, packed, sliding, adapted, size = LOGGED[name]
    expected = {"averaged": averaged, "packed": packed, "sliding": sliding, "adapted": adapted}
    results = published(name)
    assert (results["params"], results["bytes"]) == (params, size)
    assert {k: v for k, v in results["bpb"].items() if k != "trained"} == {k: v for k, v in expected.items() if v}


def test_results_belong_to_methods_and_seeds() -> None:
    """A sliding or adapted result has a method in the recipe; without results, `doubts` says why there are none."""
    for name in EXPERIMENTS:
        results = published(name)
        kinds = {"adapted" if m.adapts else m.name for m in (spec() for spec in get_recipe(name)().score)}
        assert kinds >= results["bpb"].keys() & {"sliding", "adapted"}, name
        assert bool(results["bpb"]) == bool(results["seeds"]) and (results["bpb"] or results["doubts"]), name
        for stage, mean in results["bpb"].items():
            values = [seed[stage] for seed in results["seeds"].values()]
            assert mean == pytest.approx(sum(values) / len(values), abs=1.1e-4), (name, stage)
        assert (published_bpb(name) is None) == (not results["bpb"].keys() & {"packed", "sliding", "adapted"}), name


def test_each_departure_can_be_undone() -> None:
    for name in EXPERIMENTS:
        undone = get_recipe(name)
        for assignment in " ".join(published(name)["departures"].values()).split():
            after = apply_assignment(undone, assignment)
            assert recipe_hash(after) != recipe_hash(undone), (name, assignment)
            undone = after


def test_decays_follow_the_published_schedule() -> None:
    for name, low, high in (("pr1493_decay", 0.65, 1.5), ("pr1851_strong_decay", 0.5, 1.75)):
        for rule in get_recipe(name)["train.optim"]:
            schedule = rule["use.weight_decay_schedule"]()
            factors = [schedule.value(TrainingProgress(f, 100, 0.0, 0.0)) for f in (0, 40, 85, 100)]
            assert factors == pytest.approx([1, 1, low, high]) and rule["use.weight_decay"] > 0


def test_shared_hessians_take_the_batches_of_eight_processes() -> None:
    for name, batches in (("pr1493_smear", 64), ("pr1851_run_6", 16), ("pr1855_run_5", 16)):
        source = get_recipe(name)["calibrate.source"]
        assert source["batches"] * source["rows"] * source["length"] == batches * 786_432
    source = get_recipe("pr1512_v12")["calibrate.source"]
    assert source["batches"] * source["rows"] * source["length"] == 256 * 98_304 and source["length"] == 4096


@pytest.mark.parametrize("name", ["pr1851_run_6", "pr1512_v13_no_values", "pr1493_evaluation_loops"])
def test_it_is_shown_with_counts_forecast_and_departures(name: str) -> None:
    """The forecast is within 4 % of the published file, whatever the scoring."""
    summary = describe_recipe(get_recipe(name))
    text, results = show_table(summary), published(name)
    assert f"{results['params']:,}" in text and "forecast of the artifact" in text
    assert all(words.split(";")[0] in " ".join(text.split()) for words in results["departures"])
    size = results["bytes"] or published("pr1493_longer_adaptation")["bytes"]
    code = results["code"] or published("pr1493_longer_adaptation")["code"]
    assert summary.forecast.bytes == pytest.approx(size - code, rel=0.04)


def stepped() -> list[Any]:
    marks = {name: [] if name in STEPPED else [pytest.mark.exhaustive] for name in EXPERIMENTS}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


@pytest.mark.parametrize("name", stepped())
def test_a_step_of_training_and_a_prediction_at_toy_size(name: str, data: Path) -> None:
    recipe = small_recipe(get_recipe(name), steps=2)
    trainer = make_trainer(data, recipe, noisy=False)
    before = {path: p.detach().clone() for path, p in trainer.params.items()}
    loss = float(trainer.step(0, TrainingProgress(0, 2, 0.0, 0.0)))
    assert 0.8 < loss / math.log(VOCAB) < 1.5
    assert any(not torch.equal(p, before[path]) for path, p in trainer.params.items())
    logits = trainer.model.eval()(torch.randint(2, VOCAB, (1, 16)))
    assert logits.shape == (1, 16, VOCAB) and logits.isfinite().all()


def test_the_orders_and_objectives_are_those_of_the_harness() -> None:
    assert get_recipe("pr1493_document_shuffle")["train.order"].cls is ShuffledDocuments
    objective = get_recipe("pr1493_multi_token")["train.objective"]
    assert (objective["weight"], objective["steps"], objective["mask_starts"]) == (0.1, 1, False)
    assert get_recipe("pr1493_evaluation_loops")["model.layer_schedule.order.evaluation_passes"] == 3


def test_pairs_of_heads_become_narrow_with_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    """`--quick` divides the widths, and the blocks of two heads with them."""
    toy = quick(get_recipe("pr1493_decay_paired_heads"))
    assert toy["model.dim"] == QUICK_DIM and capsys.readouterr().err == ""
    head = QUICK_DIM // toy["model.block.mixer.heads"]
    assert toy["train.optim.0.use.split.rows"] == 2 * head


WHOLE_PATH = ("pr1512_v12", "pr1493_decay_paired_heads_head_mixing", "pr1493_evaluation_loops")


def whole_path() -> list[Any]:
    """In `make test`, those whose change concerns calibration, packing or scoring: tables, mixed heads, other loops."""
    marks = {name: [] if name in WHOLE_PATH else [pytest.mark.exhaustive] for name in EXPERIMENTS}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


@pytest.mark.parametrize("name", whole_path())
def test_it_trains_packs_and_scores_at_toy_size(name: str, data: Path, tmp_path: Path) -> None:
    recipe = small_recipe(get_recipe(name), steps=3)
    log = RunLog(tmp_path, quiet=True)
    run = Run(recipe, tmp_path, log, shards=data)
    prepare(run)
    run.completed["train"] = msgspec.to_builtins(train(run))
    average(run)
    calibrate(run)
    quantize(run)
    assert pack(run).fits
    log.close()
    model = load_model((tmp_path / "artifact.bg").read_bytes()).model.eval()
    text = load_validation(data)
    short = TokenizedText(append_final_bos(text.tokens[:80], text.bos), 240, text.bos)
    for method in (node() for node in recipe["score"]):
        with closing(method.make_player(model, VOCAB, CPU, SINGLE_PROCESS)) as player:
            bits = score(player, short, method).bits
        assert 0.5 < bits / (math.log2(VOCAB) * short.num_targets) < 1.2, method.name
