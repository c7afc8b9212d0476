"""Tuning of float parameters in a run: what it writes, when it is repeated, and the time it is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitgolf.commands.pack import pack_to_cap
from bitgolf.config.rules import Rule
from bitgolf.config.spec import part
from bitgolf.errors import RecipeError
from bitgolf.grids.clip import MaxClip
from bitgolf.model.parameters import read_weights
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.quantize.encoding import load_encoded
from bitgolf.quantize.tuning import FloatTuning
from bitgolf.recipes.identity import training_key
from bitgolf.recipes.time_limit import training_time_limit
from helpers.toy_run import run_again, run_toy, scalable_recipe
from helpers.toy_training import make_data

TUNED = scalable_recipe().set("tune", part(FloatTuning, steps=3, rows=2, lr=0.01))


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def test_a_run_stores_tuned_floats_and_repeats_tuning_only_for_other_settings(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_toy(folder, TUNED, make_data(tmp_path / "data"))
    (event,) = events(folder, "tuning")
    assert 0 <= event["divergence_after"] < event["divergence_before"]
    weights, codes = (
        read_weights(folder / "averaged.safetensors", stage="average"),
        load_encoded(folder / "codes" / "codes.safetensors"),
    )
    floats = [path for path, code in codes.items() if set(code) == {"values"}]
    changed = [path for path in floats if not np.allclose(codes[path]["values"], weights[path].numpy(), rtol=1e-3)]
    assert len(floats) == event["tensors"] and changed
    run_again(folder)
    assert len(events(folder, "tuning")) == 1, "unchanged, reused"
    trained = len(events(folder, "step"))
    run_again(folder, "tune.steps=4")
    assert len(events(folder, "tuning")) == 2 and len(events(folder, "step")) == trained
    pack_to_cap(folder, 30_000)
    assert len(events(folder, "tuning")) > 2, "an artifact of another size is tuned, too"


def test_its_time_is_taken_from_training() -> None:
    timed = TUNED.set("train.seconds", 100.0).set("tune.reserve", 12.0)
    assert training_time_limit(timed, 5.0) == 83.0
    assert training_time_limit(timed.set("tune", None), 5.0) == 95.0
    assert training_time_limit(TUNED.set("train.seconds", 0.0), 0.0) == 0.0
    assert training_key(timed) != training_key(timed.set("tune", None))
    with pytest.raises(RecipeError, match="reserved for calibration and tuning") as error:
        training_time_limit(timed.set("tune.reserve", 99.0), 5.0)
    assert error.value.where == "tune.reserve"


def test_a_recipe_without_floats_has_nothing_to_tune(tmp_path: Path) -> None:
    folder, data = tmp_path / "run", make_data(tmp_path / "data")
    rules = (part(Rule, where="*", use=part(IntRows, bits=8, clip=part(MaxClip))),)
    with pytest.raises(RecipeError, match="no parameter is stored as float"):
        run_toy(folder, TUNED.set("quantize", rules).set("calibrate", None), data)
