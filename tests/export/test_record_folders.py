"""Record folders of the systems that founded the project: each runs by itself where only its requirements are installed."""

from __future__ import annotations

import os
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from bitgolf.commands.check import check_folders
from bitgolf.commands.export import ExportOptions, export_runs
from bitgolf.recipes import get_recipe
from helpers.small_recipes import small_recipe
from helpers.toy_run import run_toy
from helpers.toy_training import make_data

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(1800), pytest.mark.usefixtures("real_script_sizes")]
ROOM = 1_000_000
"""A cap with room for a script."""
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"

MakeEnvironment = Callable[[str], Path]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> MakeEnvironment:
    """The Python of an environment that has what a requirements.txt lists, made once for each list."""
    made = dict[str, Path]()

    def make(requirements: str) -> Path:
        if requirements not in made:
            folder = tmp_path_factory.mktemp("environment")
            (folder / "requirements.txt").write_text(requirements)
            venv.create(folder / "venv", with_pip=True)
            python = folder / "venv" / "bin" / "python"
            wanted = ["--requirement", str(folder / "requirements.txt"), "--constraint", str(CONSTRAINTS)]
            install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
            done = subprocess.run(install, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"needs an index of packages: {done.stderr.strip()[-200:]}")
            made[requirements] = python
        return made[requirements]

    return make


@pytest.mark.parametrize("name", ["quickstart", "pr164", "pr675", "pr1090", "pr1512", "pr1855"])
def test_a_record_folder_passes_check_and_reproduces_bytes_and_scores(
    name: str, tmp_path: Path, environment: MakeEnvironment
) -> None:
    """Toy size: run, export, check; then the folder's own script, run in the folder, makes the same artifact and scores."""
    data, run, record = make_data(tmp_path / "data"), tmp_path / "run", tmp_path / "records" / name
    recipe = small_recipe(get_recipe(name), steps=4).set("pack.cap", ROOM).set("proof", None)
    result = run_toy(run, recipe, data)
    export_runs([run], record, ExportOptions(author="A", github_id="a", blurb="A toy."))
    checked = check_folders([record], 1, lambda progress: None)
    assert checked.passes, [finding for each in checked.records for finding in each.findings]

    python = environment((record / "requirements.txt").read_text())
    settings = {"DATA_PATH": str(data), "TOKENIZER_PATH": str(data / "tokenizer.model"), "RUN_ID": "one", "SEED": "0"}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(python), "train_gpt.py"], cwd=record, env=clean | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, "\n".join(line[:200] for line in (done.stdout + done.stderr).splitlines()[-40:])
    made = record / "runs" / "one"
    assert (made / "artifact.bg").read_bytes() == (run / "artifact.bg").read_bytes()
    log = (made / "train.log").read_text()
    assert f"Code size: {(record / 'train_gpt.py').stat().st_size} bytes" in log
    assert all(f"bits:{method.bits!r} " in log for method in result.methods)
    imported = subprocess.run([str(python), "-c", "import bitgolf"], env=clean, capture_output=True, check=False)
    assert imported.returncode, "the environment has the package, so that this test shows nothing"
