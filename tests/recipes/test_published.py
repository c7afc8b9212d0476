"""Every recipe: parameter count, departures, and a complete run at toy size."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from bitgolf.artifact.model import load_model
from bitgolf.config.edits import diff
from bitgolf.config.parse import apply_assignment
from bitgolf.model.build import build_on_meta
from bitgolf.model.lm import LM
from bitgolf.model.part import Scheduled
from bitgolf.pipeline.averaging import average
from bitgolf.pipeline.calibration import calibrate
from bitgolf.pipeline.compression import pack, quantize
from bitgolf.pipeline.data import prepare
from bitgolf.pipeline.state import Run
from bitgolf.pipeline.training import train
from bitgolf.recipes import get_recipe, recipe_names
from bitgolf.recipes.identity import recipe_hash
from bitgolf.report.log import RunLog
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.methods import ScoringMethod
from bitgolf.score.referee import score
from bitgolf.score.text import TokenizedText, append_final_bos, load_validation
from helpers.recipe_cover import all_but_exhaustive, covering_recipes, part_classes
from helpers.small_recipes import VOCAB, small_recipe
from helpers.toy_training import make_data

LADDER = [
    "162",
    "180",
    "265",
    "287",
    "315",
    "414",
    "549",
    "1019",
    "1060",
    "1204",
    "1218",
    "1285",
    "1394",
    "1493",
    "1530",
    "1626",
    "1667",
    "1729",
    "1736",
    "1787",
    "1851",
    "1855",
    "1945",
    "1953",
    "2014",
    "2135",
    "164",
    "675",
    "1090",
    "1512",
    "363",
    "640",
    "641",
]
STEPS = 20
CPU = Device(torch.device("cpu"), torch.float32, "a test")


@pytest.fixture(params=recipe_names())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def test_all_systems_of_the_field_are_there() -> None:
    assert {f"pr{n}" for n in LADDER} | {"baseline", "pr1090_as_shipped", "quickstart"} <= set(recipe_names())


def test_the_count_is_the_published_one(name: str) -> None:
    recipe = get_recipe(name)
    model = build_on_meta(recipe().model, recipe().tokens().vocab)
    count = sum(p.numel() for p in model.parameters())
    published = recipe().published
    if published and name != "pr363":  # no log was published
        assert count == published["params"] - published.get("unused", 0)


def test_each_departure_can_be_undone(name: str) -> None:
    """The `--set` assignments of each departure change the recipe."""
    recipe = get_recipe(name)
    for words in ((recipe().published or {}).get("departures") or {}).values():
        undone = recipe
        for assignment in words.split():
            after = apply_assignment(undone, assignment)
            assert recipe_hash(after) != recipe_hash(undone), assignment
            undone = after


def test_no_two_recipes_are_the_same() -> None:
    hashes = {recipe_hash(get_recipe(name)): name for name in recipe_names()}
    assert len(hashes) == len(recipe_names())


def test_a_step_of_the_ladder_changes_little() -> None:
    """pr1855 differs from pr1851 in at most six settings of model and training, and in no class of a part."""
    stages = ("model", "train", "average", "calibrate")
    changed = [d for d in diff(get_recipe("pr1851"), get_recipe("pr1855")) if d[0].startswith(stages)]
    assert 3 <= len(changed) <= 6 and not any(isinstance(new, str) for _, _, new in changed)


@pytest.mark.parametrize("name", all_but_exhaustive(covering_recipes(part_classes)))
def test_its_whole_path_at_toy_size(name: str, data: Path, tmp_path: Path) -> None:
    """A short training, averaging, calibration, quantization and packing; the artifact is read and scored."""
    recipe = small_recipe(get_recipe(name), steps=STEPS)
    log = RunLog(tmp_path, quiet=True)
    run = Run(recipe, tmp_path, log, shards=data)
    prepare(run)
    trained = train(run)
    average(run)
    run.completed["train"] = msgspec.to_builtins(trained)
    assert (calibrate(run).calibration.source == "none") == (recipe().calibrate is None)
    quantize(run)
    packed = pack(run)
    log.close()
    assert trained.steps == STEPS and math.isfinite(trained.loss) and packed.fits
    model = load_model((tmp_path / "artifact.bg").read_bytes()).model.eval()
    text = two_short_documents(load_validation(data))
    for method in (node() for node in recipe().score):
        bits = bits_of(method, model, text)
        assert bits < 0.95 * math.log2(VOCAB) * text.num_targets, "a short training must beat a uniform distribution"
        if baseline := method.without_adaptation():
            assert bits_of(baseline(), model, text) != bits, "adaptation must change the score"
    assert all(part.active for part in clocked(model) if hasattr(part, "active")), (
        "the scored model is the one of the last phase"
    )


def two_short_documents(text: TokenizedText) -> TokenizedText:
    """The first 70 tokens of two documents, so that a phase can end between them."""
    (first, _), (second, _) = text.documents()[:2]
    pieces = text.tokens[first : first + 70], text.tokens[second : second + 70]
    return TokenizedText(append_final_bos(np.concatenate(pieces), text.bos), 420, text.bos)


def bits_of(method: ScoringMethod, model: LM, text: TokenizedText) -> float:
    with closing(method.make_player(model, VOCAB, CPU, SINGLE_PROCESS)) as player:
        return score(player, text, method).bits


def clocked(model: torch.nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, Scheduled)]
