"""The command line: help without torch, JSON output, errors with a hint, exit status 2 for wrong usage."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bitgolf import __version__
from bitgolf.cli import app
from bitgolf.cli.options import write_sampled
from bitgolf.recipes import experiment_names, recipe_names
from helpers.command_line import run_command as bitgolf


def test_help_imports_no_torch_and_is_quick() -> None:
    code = "import sys; sys.argv = ['bitgolf', '--help']\ntry:\n import bitgolf.cli; bitgolf.cli.main()\nexcept SystemExit: pass\nprint('torch' in sys.modules, file=sys.stderr)"
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.stderr.strip() == "False" and "bitgolf run quickstart" in done.stdout
    assert min(seconds) < 1.5, "of processor time; importing torch takes more"


def test_the_options_of_every_command() -> None:
    assert bitgolf("--version").stdout == f"bitgolf {__version__}\n"
    for words in (["--debug", "show", "basline"], ["show", "--debug", "basline"], ["show", "basline", "--debug"]):
        wrong = bitgolf(*words)
        assert wrong.returncode == 2 and "Traceback" in wrong.stderr and "did you mean" in wrong.stderr


def test_verbs_stand_in_the_order_of_the_pipeline_and_of_its_artifact() -> None:
    names = "recipes show diff run watch score compress decompress generate ledger audit doctor pack sweep export check record bundle verify runs compare to_hf to_web import_logs"
    assert [command.callback.__name__ for command in app.registered_commands if command.callback] == names.split()
    assert [group.name for group in app.registered_groups] == ["data"]


def test_a_program_limits_how_long_threads_spin_and_an_import_sets_nothing() -> None:
    code = "import os, bitgolf; assert 'GOMP_SPINCOUNT' not in os.environ"
    code += "; import sys, bitgolf.cli; sys.argv = ['bitgolf', 'recipes', '--json']; bitgolf.cli.main()"
    code += "; print(os.environ['GOMP_SPINCOUNT'], os.environ['KMP_BLOCKTIME'])"
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.split()[-2:] == ["1000", "1"], done.stderr


def test_recipes_lists_every_file() -> None:
    names = {*recipe_names(), *experiment_names()}
    assert json.loads(bitgolf("recipes", "--json").stdout).keys() == names


@pytest.mark.parametrize("name", ["quickstart", "baseline", "pr1855", "pr640"])  # all of them: tests/recipes
def test_show_has_the_keys_of_the_design(name: str) -> None:
    done = bitgolf("show", name, "--json")
    d = json.loads(done.stdout)
    assert d.keys() >= {"name", "hash", "params", "params_by_role", "layers", "vocab", "forecast", "parts", "cautions"}
    assert d["name"] == name and d["params"] == sum(d["params_by_role"].values()) and d["forecast"]["bytes"] > 0
    assert isinstance(d["parts"], list) and isinstance(d["cautions"], list) and "LM" in d["parts"]


def test_diff_lists_paths() -> None:
    rows = json.loads(bitgolf("diff", "baseline", "quickstart", "--json").stdout)
    assert {"path": "tokens.vocab", "a": 1024, "b": 2048} in rows
    assert json.loads(bitgolf("diff", "baseline", "baseline", "--json").stdout) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "basline"], "did you mean 'baseline'"),
        (["show", "baseline", "--set", "train.sceonds=3"], "train.seconds"),
        (["run", "baseline"], "--text"),
        (["run", "quickstart", "--from", "bake"], "unknown stage 'bake'"),
        (["run", "quickstart", "--text", "nowhere.txt"], "no such file"),
        (["score", "nowhere.bg", "--text", "x"], "there is no artifact"),
        (["frobnicate"], "there is no command 'frobnicate'"),
    ],
)
def test_wrong_use_is_exit_2_with_a_message(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = bitgolf(*words)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr and not done.stdout


def test_a_terminal_gets_no_control_characters_of_a_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sampled("a\x1b[2Jb\n")
    assert capsys.readouterr().out == "a\x1b[2Jb\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    write_sampled("a\x1b[2Jb\tc\x0b\u202e\n")
    assert capsys.readouterr().out == "a\\x1b[2Jb\tc\\x0b\\u202e\n"
