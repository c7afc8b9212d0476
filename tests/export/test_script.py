"""The script of a recipe: what it reaches, and that it computes what the package does, without the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitgolf.config.spec import Spec
from bitgolf.export.script import recipe_script
from bitgolf.recipes import get_recipe
from bitgolf.recipes.recipe import Recipe
from bitgolf.tokens.loading import load_tokenizer
from helpers.small_recipes import small_recipe
from helpers.toy_run import run_toy, scalable_recipe
from helpers.toy_training import make_data

ROOM = 1_000_000
"""A cap with room for a script."""
SIZES = {"baseline": 38_500, "pr1855": 61_500}


def run_script(folder: Path, text: str, data: Path, **settings: str) -> Path:
    """Run a script in a folder, in a Python that ignores the module path; returns the folder of its results."""
    folder.mkdir()
    (folder / "train_gpt.py").write_text(text)
    environment = {**os.environ, "DATA_PATH": str(data), "RUN_ID": "one", **settings}
    command = [sys.executable, "-I", "train_gpt.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:  # without the source in the traceback
        pytest.fail("\n".join(line[:200] for line in (done.stdout + done.stderr).splitlines()))
    return folder / "runs" / "one"


def compare(tmp_path: Path, recipe: Spec[Recipe], *forms: str) -> None:
    """Run a recipe with the package and with its script: artifact and scores are equal.

    forms: `packed` and `readable`.
    """
    data = make_data(tmp_path / "data")
    result = run_toy(tmp_path / "run", recipe, data)
    script = recipe_script(recipe, load_tokenizer(data / "tokenizer.model").kind)
    for form in forms:
        made = run_script(tmp_path / form, getattr(script, form), data)
        assert (made / "artifact.bg").read_bytes() == (tmp_path / "run" / "artifact.bg").read_bytes()
        log = (made / "train.log").read_text()
        assert f"Code size: {len(getattr(script, form).encode())} bytes" in log
        for method in result.methods:
            assert f"bits:{method.bits!r} " in log


@pytest.mark.parametrize("form", ["packed", pytest.param("readable", marks=pytest.mark.exhaustive)])
def test_a_script_computes_what_the_package_computes(tmp_path: Path, form: str) -> None:
    """Calibration, GPTQ, a trellis and the range coder."""
    compare(tmp_path, scalable_recipe().set("pack.cap", ROOM), form)


@pytest.mark.parametrize("name", ["baseline", pytest.param("quickstart", marks=pytest.mark.exhaustive)])
def test_scripts_of_the_recipes_to_begin_with(name: str, tmp_path: Path) -> None:
    compare(tmp_path, toy(name), "packed")


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["pr164", "pr675", "pr1090", "pr1512", "pr1855"])
def test_scripts_of_published_systems(name: str, tmp_path: Path) -> None:
    compare(tmp_path, toy(name), "packed")


@pytest.mark.parametrize("name", ["baseline", pytest.param("pr1855", marks=pytest.mark.exhaustive)])
def test_sizes(name: str) -> None:
    """Limits a little above what docs/measurements.md states, so that growth is noticed."""
    kind = "caseops" if name == "pr1855" else "sentencepiece"
    assert recipe_script(get_recipe(name), kind).bytes < SIZES[name]


def toy(name: str) -> Spec[Recipe]:
    """A recipe at a size that trains in a second, with room for its script under the cap."""
    return small_recipe(get_recipe(name), steps=4).set("pack.cap", ROOM).set("proof", None)
