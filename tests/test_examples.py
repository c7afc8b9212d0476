"""Examples in README, CONTRIBUTING and docs: every fenced command and Python block runs; commands within sentences exist.

Upper-case words of an example (RUN, PATH, FILE) are replaced by small files, and a training run gets a toy size.
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from typer.main import get_command

from bitgolf import recipes
from bitgolf.cli.main import app
from bitgolf.config.parse import apply_assignment
from bitgolf.config.spec import Spec
from bitgolf.data.hub.published import resolve_source
from bitgolf.recipes import get_recipe, load_recipe
from bitgolf.recipes.recipe import Recipe
from helpers.command_line import run_command
from helpers.forked import forked_workers
from helpers.hub_repository import SP1024, library_on, repository_files, shard
from helpers.hub_server import hub_server
from helpers.own_code import own_code_removed
from helpers.report_charts import no_charts

__all__ = ["forked_workers", "no_charts", "own_code_removed"]

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "results" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
TOY = (
    "tokens.vocab=300",
    "model.dim=32",
    "model.layers=2",
    "train.seconds=0",
    "train.steps=3",
    "train.length=32",
    "proof=none",
    "quantize.1.use.states=8",
    "score=(ContiguousScoring(window=64),)",
)
"""Settings that are added to each `bitgolf run RECIPE` of an example."""
PUBLISHED = resolve_source("fineweb10B").repository
"""The repository that an example fetches shards from, here from a hub on this machine."""
SMALLER = {"300000": "19000", "200000": "19000", "20": "3", "60": "3", "2.8": "99"}
"""Numbers of examples -> those that fit a toy."""
OWN_FILES = {"own_parts.md": "my_recipe.py", "own_codec.md": "my_codec.py"}
"""Documents whose first Python block is a file that their commands use."""


def fenced_blocks(text: str, languages: tuple[str, ...]) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language in languages]


def lines(document: Path) -> list[str]:
    """The command lines of a document's fenced blocks, without their comments."""
    text = document.read_text()
    found = [line for block in fenced_blocks(text, ("", "sh", "console")) for line in block.splitlines()]
    return [" ".join(shlex.split(line, comments=True)) and line for line in found if is_command(line)]


def is_command(line: str) -> bool:
    return line.startswith(("bitgolf ", "make ", "python bench/"))


def inline_commands(document: Path) -> list[str]:
    return [span for span in re.findall(r"`([^`\n]+)`", document.read_text()) if is_command(span)]


def large_commands(document: Path) -> list[str]:
    """Commands of blocks marked `bash`, which need a GPU, a network or hours: their options exist, and are not run."""
    blocks = fenced_blocks(document.read_text(), ("bash",))
    return [line for block in blocks for line in block.splitlines() if is_command(line)]


LARGE = [line for document in DOCUMENTS for line in large_commands(document)]
EXAMPLES = [(document, line) for document in DOCUMENTS for line in lines(document)]
MENTIONS = sorted(
    {span for document in DOCUMENTS for span in inline_commands(document)} | {line for _, line in EXAMPLES} | {*LARGE}
)


def options(command: list[str]) -> tuple[set[str], list[str]]:
    """The options that a `bitgolf` command has, and the words of the example that are options. Fails for an unknown command."""
    node = get_command(app)
    words = command[1:]
    while words and hasattr(node, "commands") and not words[0].startswith("-"):
        assert words[0] in node.commands, f"there is no command {words[0]!r}"  # type: ignore[attr-defined]
        node, words = node.commands[words[0]], words[1:]  # type: ignore[attr-defined]
    known = {name for parameter in node.params for name in parameter.opts} | {"--help"}
    return known, [word for word in words if word.startswith("--")]


@pytest.mark.parametrize("mention", [m for m in MENTIONS if m.startswith("bitgolf ")])
def test_a_command_that_is_mentioned_exists_with_its_options(mention: str) -> None:
    known, used = options(shlex.split(mention, comments=True))
    assert set(used) <= known


@pytest.mark.parametrize("mention", [m for m in MENTIONS if m.startswith("make ")])
def test_a_target_that_is_mentioned_is_in_the_makefile(mention: str) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert shlex.split(mention, comments=True)[1] in targets


@pytest.mark.parametrize("mention", [m for m in MENTIONS if m.startswith("python bench/")])
def test_a_benchmark_that_is_mentioned_takes_these_options(
    mention: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, script, *words = shlex.split(mention, comments=True)
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert done.value.code == 0
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    assert {word for word in words if word.startswith("--")} <= known


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files for the upper-case words of the examples."""
    made = tmp_path_factory.mktemp("examples")
    (made / "PATH").mkdir()
    for i in range(40):
        words = [f"word{(7 * i + j * j) % 97}" for j in range(120)]
        (made / "PATH" / f"{i}.txt").write_text(" ".join(words))
    (made / "FILE").write_text("the file that is compressed")
    return made


def substituted(line: str) -> list[str]:
    """The words of a command at toy size, with patterns expanded as a shell does. Its own settings follow those of the toy."""
    words = [smaller(word) for word in shlex.split(line, comments=True)]
    if words[1] == "run" or (words[1] == "sweep" and "--text" in words):
        words[3:3] = [word for setting in TOY for word in ("--set", setting)]
    patterns = {word for word in words if "/" in word and "*" in word and f"'{word}'" not in line}
    return [name for word in words[1:] for name in (matches(word) if word in patterns else [word])]


def matches(pattern: str) -> list[str]:
    """The paths that match a pattern, sorted."""
    return sorted(str(path) for path in Path().glob(pattern))


def smaller(word: str) -> str:
    """A word of a command with the numbers that fit a toy, also in the name of a file."""
    for number, fitting in SMALLER.items():
        word = re.sub(rf"(?<![\d.]){re.escape(number)}(?!\d)", fitting, word)
    return word


@pytest.mark.parametrize("line", [line for line in LARGE if line.split()[1] == "run"])
def test_the_recipe_of_a_large_command_exists_with_its_settings(line: str) -> None:
    words = shlex.split(line, comments=True)
    load_recipe(words[2], [after for before, after in pairwise(words) if before == "--set"])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if lines(d)], ids=lambda d: d.name)
def test_the_commands_of_a_document_run_in_their_order(
    document: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    if name := OWN_FILES.get(document.name):
        (folder / name).write_text(fenced_blocks(document.read_text(), ("python",))[0])
    for made in folder.glob("FILE.*"):  # by another document; a file is replaced with --force only
        made.unlink()
    more_shards = {f"{SP1024}/fineweb_train_{i:06d}.bin": shard(i) for i in range(4, 10)}
    with hub_server() as hub, library_on(hub, folder):
        hub.publish(PUBLISHED, repository_files() | more_shards)
        for line in lines(document):
            if line.startswith("bitgolf "):
                done = run_command(*substituted(line))
                assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def python_blocks(document: Path) -> list[str]:
    return fenced_blocks(document.read_text(), ("python",))


def toy_quickstart(name: str) -> Spec[Recipe]:
    """The recipe of a name, at toy size if it is the one that the examples train."""
    recipe = get_recipe(name)
    for setting in TOY if name == "quickstart" else ():
        recipe = apply_assignment(recipe, setting)
    return recipe


@pytest.mark.slow
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if python_blocks(d)], ids=lambda d: d.name)
def test_the_python_examples_of_a_document_run_in_their_order(
    document: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later example may use the names of an earlier one. `corpus` is a folder with text, and `file.txt` a text."""
    shutil.copytree(folder / "PATH", tmp_path / "corpus")
    (tmp_path / "file.txt").write_text("the text of a file")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipes, "get_recipe", toy_quickstart)
    namespace: dict[str, object] = {"__name__": "example"}
    for block in python_blocks(document):
        exec(compile(block, str(document), "exec"), namespace)
