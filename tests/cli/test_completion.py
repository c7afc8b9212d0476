"""Shell completion: what is offered after TAB, without torch, and the scripts of typer in real shells."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bitgolf.cli import completion
from bitgolf.config.paths import class_by_path
from bitgolf.config.recipe_file import write_recipe
from bitgolf.pipeline.stages import STAGE_NAMES
from bitgolf.recipes import experiment_names, get_recipe, recipe_names
from bitgolf.runtime.device import DEVICE_TYPES
from bitgolf.score.method_selection import methods_by_name
from helpers.forked_programs import run_forked


def ask(*words: str, folder: Path, shell: str = "bash") -> list[str]:
    """What is offered for the last word, by a program in `folder`."""
    line = " ".join(["bitgolf", *words])
    environment = {"_BITGOLF_COMPLETE": f"complete_{shell}", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    environment |= {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = run_forked(environment=environment)
    assert not done.stderr
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["sh"], ["show"]),
        (["data", "f"], ["fetch"]),
        (["show", "quick"], ["quickstart"]),
        (["run", "baseline", "--strict-"], ["--strict-cap"]),
        (["run", "baseline", "--from", "pr"], ["prepare"]),
        (["run", "baseline", "--device", "c"], ["cuda", "cpu"]),
        (["run", "baseline", "--set", "train.se"], ["train.seconds="]),
        (["show", "baseline", "--add", "model.post"], ["model.post_embed=", "model.post_norm="]),
        (["score", "x", "--with", "s"], ["sgd", "sliding"]),
        (["diff", "midsize", "base"], ["baseline"]),
        (["doctor", "late"], ["latest"]),
        (["show", "latest", "--set", "x"], []),  # there is no run: no message in the line that is typed
    ],
)
def test_what_is_offered(words: list[str], offered: list[str], tmp_path: Path) -> None:
    assert ask(*words, folder=tmp_path) == offered


def test_runs_files_and_their_own_settings(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    write_recipe(run / "recipe.json", get_recipe("quickstart"))
    (run / "artifact.bg").write_bytes(b"")
    assert ask("score", "ru", folder=tmp_path) == ["runs/mine"]
    assert ask("score", "runs/mine/", folder=tmp_path) == ["runs/mine/artifact.bg"]
    assert ask("show", "runs/mine/", folder=tmp_path) == ["runs/mine/recipe.json"]
    deep = ["model.block.mixer.heads="]
    assert ask("run", "runs/mine", "--set", "model.block.mixer.he", folder=tmp_path) == deep
    (run / "inputs.json").write_text("{}")
    assert ask("run", "latest", "--set", "model.block.mixer.he", folder=tmp_path) == deep
    assert ask("run", "quickstart", "--set", "model.block.mixer.he", folder=tmp_path) == [""]
    (run / "recipe.json").write_bytes(b"{")
    assert ask("run", "runs/mine", "--set", "train.sec", folder=tmp_path) == ["train.seconds="]


def test_the_shells_have_their_own_forms(tmp_path: Path) -> None:
    assert "quickstart" in ask("show", "quick", folder=tmp_path, shell="zsh")[0]
    assert ask("show", "quick", folder=tmp_path, shell="fish")[0].startswith("quickstart\tThe first recipe")
    part = ask("run", "x", "--set", "model.block.mlp.act=SquaredL", folder=tmp_path, shell="fish")
    assert part == ["model.block.mlp.act=SquaredLeakyReLU"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_with_the_script_that_is_shown(tmp_path: Path) -> None:
    program = tmp_path / "bitgolf"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m bitgolf "$@"\n')
    program.chmod(0o755)
    script = """
    eval "$(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION=1 bitgolf --show-completion bash)"
    COMP_WORDS=(bitgolf show qui); COMP_CWORD=2; _bitgolf_completion bitgolf; echo "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("quickstart\n", "")


def test_it_is_installed_in_the_home_folder(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    words = [sys.executable, "-m", "bitgolf", "--install-completion", "bash"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0 and ".bash_completions" in (tmp_path / ".bashrc").read_text()


def test_the_lists_are_those_of_the_program() -> None:
    assert tuple(STAGE_NAMES) == completion.STAGES and completion.DEVICES == DEVICE_TYPES
    assert completion.complete_method("") == sorted([*methods_by_name(), "adapt"])
    recipes = [name for name, about in completion.complete_recipe("") if about and name != "latest"]
    assert recipes == [*recipe_names(), *experiment_names()]


@pytest.mark.parametrize("name", ["quickstart", "baseline", "pr1855"])
def test_paths_are_those_of_the_recipe(name: str, tmp_path: Path) -> None:
    recipe = get_recipe(name)
    write_recipe(tmp_path / "recipe.json", recipe)
    known = {path for path in class_by_path(recipe) if path != "published"}
    unstored = {"train.validation", "score.2.method"} & known  # left out of the JSON form at their defaults
    for place in (str(tmp_path), f"{tmp_path}/recipe.json"):
        assert set(completion.setting_paths(place)) | unstored == known
    common = completion.setting_paths(name)
    assert {"train.seconds", "model.block.mlp", "pack.cap"} <= set(common)
    optional = {
        path
        for path in common
        if path.startswith(("calibrate.", "proof.", "tune.", "train.lookahead.", "train.validation.", "rounded_phase."))
    }
    assert set(common) - optional <= known
    assert all(isinstance(recipe[path], tuple) for path in set(completion.chain_paths(name)) - optional)


def test_an_answer_needs_no_torch_and_little_time(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.environ |= {'_BITGOLF_COMPLETE': 'complete_bash', 'COMP_CWORD': '4'}\n"
        "os.environ['COMP_WORDS'] = 'bitgolf run quickstart --set train.'; sys.argv = ['bitgolf']\n"
        "import bitgolf.cli; bitgolf.cli.main(); print('torch' in sys.modules, file=sys.stderr)"
    )
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.stderr == "False\n" and "train.seconds=" in done.stdout
    assert min(seconds) < 1.5, "of processor time"
