"""Runs with parts of the user: every stage and command has them, and none has them unless the user names their file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bitgolf.artifact.container import read_artifact
from bitgolf.artifact.model import artifact_requirements, load_model
from bitgolf.config.code_files import load_code
from bitgolf.config.registry import REGISTRY
from bitgolf.config.requirements import MissingCodeError
from bitgolf.pipeline.reporting import Reported
from bitgolf.pipeline.stages import Stage
from bitgolf.pipeline.state import Run
from bitgolf.report.log import RunLog
from helpers.command_line import run_command
from helpers.own_code import OWN_PARTS, install, own_code_removed, remove_own_code, write_code
from helpers.toy import toy_recipe
from helpers.toy_training import make_data

__all__ = ["own_code_removed"]

RECIPE = """
from bitgolf.config.edits import replace
from bitgolf.config.spec import part
from bitgolf.config.rules import Rule
from bitgolf.grids.clip import SdClip
from bitgolf.model.attention.attention import Attention
from bitgolf.model.mlp import MLP
from bitgolf.pack.settings import Pack
from bitgolf.recipes import get_recipe
from my_parts import CubedReLU, OwnCoder, OwnRows, OwnWindows


def my_recipe():
    recipe = get_recipe("quickstart").replace(name="mine", proof=None, calibrate=None)
    recipe = recipe.set("quantize.1", part(Rule, where="*", use=part(OwnRows, bits=6, clip=part(SdClip, k=16.0))))
    recipe = recipe.set("model.dim", 32).edit(Attention, replace(heads=2, kv_heads=2)).edit(MLP, replace(hidden=48))
    recipe = recipe.set("model.block.mlp.act", part(CubedReLU)).set("pack", part(Pack, coder=part(OwnCoder), cap=60_000, counted="model"))
    recipe = recipe.set("train", recipe["train"].replace(seconds=0.0, steps=3, rows=4, length=32))
    return recipe.set("score", (part(OwnWindows, window=32),))
"""
OWN = {"CubedReLU", "OwnCoder", "OwnRows", "OwnWindows"}
Start = Callable[..., subprocess.CompletedProcess[str]]


def run_program(*words: str) -> subprocess.CompletedProcess[str]:
    """`run_command` in a new Python."""
    return subprocess.run([sys.executable, "-m", "bitgolf", *words], capture_output=True, text=True, check=False)


def forget() -> None:
    """Leave this process as a new one: without code of the user, and without plugins."""
    remove_own_code()
    assert not OWN & REGISTRY.keys()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the code files, shards in `data`, and a finished run in `run`."""
    folder = tmp_path_factory.mktemp("own")
    parts, recipe = write_code(folder, "my_parts.py", OWN_PARTS), write_code(folder, "my_recipe.py", RECIPE)
    words = ["--code", str(parts), "--shards", str(make_data(folder / "data")), "--out", str(folder / "run")]
    done = run_command("run", f"{recipe}:my_recipe", *words)
    assert done.returncode == 0, done.stderr
    forget()
    return folder


@pytest.fixture
def work(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "work")
    return tmp_path / "work"


def test_artifact_and_run_name_the_file_and_its_digest(trained: Path) -> None:
    (needed,) = artifact_requirements(read_artifact(trained / "run" / "artifact.bg"))
    assert (needed.kind, needed.name, set(needed.parts)) == ("code", "my_parts.py", OWN)
    stored = json.loads((trained / "run" / "recipe.json").read_text())["requires"]
    assert {(name, *digest) for _, name, *digest, _ in stored} == {("my_parts.py", needed.version)}
    assert b"my_parts" not in (trained / "run" / "inputs.json").read_bytes(), "no path of code is stored"
    assert (trained / "run" / "code" / "my_parts.py").read_text() == OWN_PARTS


def test_the_size_of_the_code_is_unknown_and_the_reason_stated(trained: Path) -> None:
    sizes = json.loads((trained / "run" / "score.json").read_text())["bytes"]
    assert sizes["code"] is None and sizes["total"] == sizes["model"] and "your own code" in sizes["code_note"]


COMMANDS = {
    "score": ["score", "run", "--shards", "data"],
    "score by name": ["score", "run", "--shards", "data", "--with", "own_windows"],
    "compress": ["compress", "run", "FILE", "FILE.bgz"],
    "generate": ["generate", "run", "--prompt", "a", "--tokens", "3"],
    "show": ["show", "run"],
    "diff": ["diff", "run", "baseline"],
    "run": ["run", "run"],
    "run from quantize": ["run", "run", "--from", "quantize"],
    "sweep": ["sweep", "run", "--set", "quantize.1.use.bits=5,6"],
    "pack": ["pack", "run"],
    "doctor": ["doctor", "run", "--tokens", "256"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_needs_the_file_and_works_with_it(name: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    Path("FILE").write_text("a file")
    refused = run_command(*COMMANDS[name])
    assert refused.returncode == 2 and "my_parts.py (SHA-256 " in refused.stderr, refused.stderr
    assert "--code run/code/my_parts.py" in refused.stderr
    done = run_command(*COMMANDS[name], "--code", "run/code/my_parts.py")
    assert done.returncode == 0, done.stderr
    assert "SHA-256" not in done.stderr


def test_what_was_compressed_is_restored(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    Path("FILE").write_text("what was compressed is restored")
    for words in (("compress", "run", "FILE", "FILE.bgz"), ("decompress", "run", "FILE.bgz", "RESTORED")):
        done = run_command(*words, "--code", "my_parts.py")
        assert done.returncode == 0, done.stderr
        forget()
    assert Path("RESTORED").read_text() == "what was compressed is restored"


def test_another_file_is_refused_with_both_digests_and_accepted_on_request(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    (needed,) = artifact_requirements(read_artifact(work / "run" / "artifact.bg"))
    changed = write_code(work / "changed", "my_parts.py", OWN_PARTS + "\n# changed\n")
    words = ("generate", "run", "--tokens", "2")
    refused = run_command(*words, "--code", str(changed))
    assert refused.returncode == 2 and needed.version in refused.stderr and "--any-code" not in refused.stdout
    assert refused.stderr.count("SHA-256") == 2
    forget()
    done = run_command(*words, "--any-code", str(changed))
    assert done.returncode == 0 and "note: my_parts.py has changed" in done.stderr


def test_changed_code_runs_the_stages_that_have_it_again(
    trained: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash of the recipe differs, the data is reused, and training is refused rather than mixed with the old one."""
    monkeypatch.chdir(work)
    write_code(work, "my_parts.py", OWN_PARTS.replace("u.relu() ** 3", "u.relu() ** 2"))
    words = ("run", "my_recipe.py", "--code", "my_parts.py", "--shards", str(trained / "data"), "--out", "run")
    refused = run_command(*words)
    assert refused.returncode == 2 and "are of another recipe" in refused.stderr
    assert "prepare: unchanged, reused" in refused.stderr
    forget()
    done = run_command(*words, "--from", "train")
    assert done.returncode == 0, done.stderr
    assert (work / "run" / "code" / "my_parts.py").read_text() == (work / "my_parts.py").read_text()


def test_a_class_that_is_not_registered_is_refused_before_anything_is_written(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    first = OWN_PARTS.index("@register")
    write_code(work, "my_parts.py", OWN_PARTS[:first] + OWN_PARTS[first:].replace("@register\n", "", 1))
    refused = run_command("run", "my_recipe.py", "--code", "my_parts.py", "--shards", "data", "--out", "new")
    assert refused.returncode == 2 and "the class CubedReLU is not registered" in refused.stderr
    assert "model.block.mlp.act" in refused.stderr and not Path("new").exists()


def test_parts_and_recipes_of_a_plugin(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    modules = {"bitgolf_own": OWN_PARTS, "bitgolf_own_recipes": RECIPE.replace("my_parts", "bitgolf_own")}
    entries = {"own": "bitgolf_own", "mine": "bitgolf_own_recipes:my_recipe"}
    install(work / "site", "bitgolf-own", "1.5", entries, modules)
    monkeypatch.setenv("PYTHONPATH", str(work / "site"))
    assert json.loads(run_command("recipes", "--json").stdout)["mine"] == "of bitgolf-own 1.5"
    done = run_command("run", "mine", "--shards", "data", "--out", "plugged")
    assert done.returncode == 0, done.stderr
    artifact = Path("plugged/artifact.bg").read_bytes()
    (needed,) = artifact_requirements(read_artifact(artifact))
    assert (needed.kind, needed.name, needed.version, set(needed.parts)) == ("distribution", "bitgolf-own", "1.5", OWN)
    sys.path.remove(str(work / "site"))
    forget()
    with pytest.raises(MissingCodeError, match=r"are of bitgolf-own 1\.5, which is not installed") as error:
        load_model(artifact)
    assert "pip install bitgolf-own==1.5" in error.value.hint
    install(work / "newer", "bitgolf-own", "1.6", entries, modules)
    assert load_model(artifact).name == "mine"
    assert "made with bitgolf-own 1.5; bitgolf-own 1.6 is used" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("start", [run_command, pytest.param(run_program, marks=pytest.mark.exhaustive)])
def test_worker_processes_have_the_file(start: Start, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that share nothing with this one, forked here, and under torchrun as a user starts them."""
    monkeypatch.chdir(work)
    done = start("score", "run", "--shards", "data", "--processes", "2", "--code", "my_parts.py", "--json")
    assert done.returncode == 0, done.stderr
    stored = json.loads((work / "run" / "score.json").read_text())["bpb"]["packed"]
    assert json.loads(done.stdout)["bpb"] == pytest.approx(stored, abs=1e-9)


def test_the_key_of_a_stage_has_the_digest_of_the_file_that_its_settings_need(tmp_path: Path) -> None:
    def key(source: str, part: str) -> str:
        load_code([write_code(tmp_path, "my_parts.py", source)])
        return Stage("quantize", lambda run: [{"part": part}], lambda run: Reported()).key(
            Run(toy_recipe(), tmp_path, RunLog())
        )

    changed = OWN_PARTS + "\n"
    assert key(OWN_PARTS, "OwnRows") == key(OWN_PARTS, "OwnRows") != key(changed, "OwnRows")
    assert key(OWN_PARTS, "IntRows") == key(changed, "IntRows")
