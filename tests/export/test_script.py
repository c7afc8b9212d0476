"""The script of a recipe: what it reaches, and that it computes what the package does, without the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitgolf.config.spec import Spec
from bitgolf.export.script import recipe_script
from bitgolf.recipes.recipe import Recipe
from helpers.toy_run import run_toy, scalable_recipe
from helpers.toy_training import make_data


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


def compare(tmp_path: Path, recipe: Spec[Recipe]) -> None:
    """Run a recipe with the package and with both forms of its script: artifact and scores are equal."""
    data = make_data(tmp_path / "data")
    result = run_toy(tmp_path / "run", recipe, data)
    script = recipe_script(recipe)
    for form in (script.packed, script.readable):
        made = run_script(tmp_path / str(len(form)), form, data)
        assert (made / "artifact.bg").read_bytes() == (tmp_path / "run" / "artifact.bg").read_bytes()
        log = (made / "train.log").read_text()
        for method in result.methods:
            assert f"bits:{method.bits!r} " in log


def test_a_script_computes_what_the_package_computes(tmp_path: Path) -> None:
    compare(tmp_path, scalable_recipe())
