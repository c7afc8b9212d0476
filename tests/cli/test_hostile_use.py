"""Every verb with hostile arguments and files: one clear error or a result, never a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import typer

from bitgolf.cli.main import app
from bitgolf.errors import BitgolfError
from bitgolf.files import write_json
from bitgolf.runtime import launch
from bitgolf.submission import folder as record_folders
from helpers.command_line import run_command
from helpers.toy import toy_recipe
from helpers.toy_artifact import make_toy

DIGITS = "9" * 30
NUMBERS = ["-1", "0", "x", "", "nan", "inf", "-inf", "1e9", "0x10", DIGITS, f"-{DIGITS}", "9" * 5000, "½"]
TEXTS = [
    "",
    " ",
    "-",
    "=",
    "a=b",
    "../..",
    "x" * 5000,
    "\udcff\udcfe",
    "\x1b[31mred",
    "a\nb",
    "%s{0}",
    "null",
    "*",
    "[",
]


def verbs() -> dict[str, Any]:
    """Words of a verb -> its parsed command, for every verb of the program."""
    program: Any = typer.main.get_command(app)
    found: dict[str, Any] = {}
    for name, command in program.commands.items():
        found |= (
            {f"{name} {k}": v for k, v in command.commands.items()} if hasattr(command, "commands") else {name: command}
        )
    return found


VERBS = verbs()
REQUIRED = {
    "show": ["quickstart"],
    "diff": ["quickstart", "baseline"],
    "run": ["quickstart", "--text", "nowhere"],
    "score": ["nowhere.bg", "--text", "nowhere"],
    "compress": ["nowhere.bg", "nowhere", "out"],
    "decompress": ["nowhere.bg", "nowhere", "out"],
    "generate": ["nowhere.bg"],
    "to-web": ["nowhere.bg", "out"],
    "ledger": ["nowhere.bg"],
    "to-hf": ["nowhere.bg", "out"],
    "audit": ["nowhere.bg", "--text", "nowhere"],
    "doctor": ["nowhere"],
    "pack": ["nowhere"],
    "sweep": ["nowhere", "--set", "quantize.1.use.bits=3,4"],
    "recipes": [],
    "watch": ["nowhere"],
    "export": ["nowhere", "out"],
    "check": ["nowhere"],
    "record": ["nowhere", "--against", "1.1"],
    "bundle": ["nowhere", "out.zip"],
    "verify": ["nowhere.zip"],
    "runs": ["nowhere"],
    "compare": ["nowhere"],
    "import": ["nowhere"],
    "data make": ["folder", "--text", "nowhere"],
    "data check": ["nowhere"],
    "data fetch": ["nosuchset"],
}
"""Words with which a verb fails late, or is done at once: nothing is trained or fetched."""

SKIPPED = {"cluster", "help", "json", "debug"}
"""Options that are not tried: one would search a network, the others take no value."""


@pytest.fixture(autouse=True)
def no_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A scratch folder, and an error in place of worker processes, which a refused command must not reach."""

    def refuse(*args: Any) -> Any:
        raise BitgolfError("a worker process would start here")

    monkeypatch.setattr(launch, "_run", refuse)
    monkeypatch.setattr(record_folders, "MOST_SEARCHED", 100)  # a whole file system is one of the paths
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def check(done: CompletedProcess[str], *, status: tuple[int, ...] = (0, 1, 2)) -> None:
    """Fail on a traceback, on a defect, and on an error that is not one short message."""
    assert "Traceback" not in done.stderr and "defect of bitgolf" not in done.stderr, done.stderr
    assert done.returncode in status, done.stderr
    if done.returncode and not done.stdout:  # `data check` prints findings
        message = done.stderr[done.stderr.rindex("bitgolf: ") :]
        assert len(message.splitlines()) <= 4 and max(map(len, message.splitlines())) < 1100, done.stderr
        assert "\x1b[31m" not in message


def paths(folder: Path) -> list[str]:
    """Paths that cannot be used as most verbs want: of devices, cycles, names that are too long, and the like."""
    (folder / "a file").write_bytes(b"some text")
    (folder / "a folder").mkdir()
    (folder / "cycle").symlink_to(folder / "cycle")
    (folder / "dangling").symlink_to(folder / "nothing")
    (folder / "empty").touch()
    with (folder / "sparse").open("wb") as file:
        file.truncate(10**8)
    names = ["a file", "a file/inside", "a folder", "cycle", "cycle/x", "dangling", "empty", "sparse", "n" * 300]
    return [*(str(folder / name) for name in names), "/proc/nope/x", "/dev/null", "/dev/zero", "/dev/full", "~", "/"]


def trials() -> Iterator[Any]:
    for verb, command in VERBS.items():
        yield pytest.param(verb, None, id=verb)
        for parameter in command.params:
            if parameter.name not in SKIPPED and not getattr(parameter, "is_flag", False):
                yield pytest.param(verb, parameter, id=f"{verb}: {parameter.name}")


def test_every_verb_is_tried() -> None:
    assert VERBS.keys() == REQUIRED.keys()


@pytest.mark.parametrize(("verb", "parameter"), list(trials()))
def test_hostile_values_of_each_argument(verb: str, parameter: Any, tmp_path: Path) -> None:
    words = [*verb.split(), *REQUIRED[verb]]
    if parameter is None:
        for extra in (["--nonsense"], ["--set"], ["too", "many", "words", "here"], ["--seed=--seed"], [""]):
            check(run_command(*words, *extra))
        return
    kind = str(parameter.type_descriptor.annotation)
    numeric = "int" in kind or "float" in kind
    for value in NUMBERS if numeric else [*TEXTS, *paths(tmp_path)] if "Path" in kind else [*TEXTS, DIGITS, "nan"]:
        if parameter.param_type_name == "option":
            check(run_command(*words, parameter.opts[0], value))
        else:
            index = [p.name for p in VERBS[verb].params if p.param_type_name == "argument"].index(parameter.name)
            given = list(REQUIRED[verb])
            given[index : index + 1] = [value]
            check(run_command(*verb.split(), *given))


# ---- damaged artifacts ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy artifact, and a text in `raw`."""
    folder = tmp_path_factory.mktemp("toy")
    make_toy(folder)
    return folder


def damages(data: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "one byte": data[:1],
        "cut": data[: len(data) // 2],
        "one byte less": data[:-1],
        "longer": data + b"\0",
        "zeros": bytes(len(data)),
        "text": b"some text\n" * 100,
        "json": b'{"part": "Recipe"}',
        "one bit": data[:200] + bytes([data[200] ^ 1]) + data[201:],
    }


@pytest.mark.parametrize("verb", ["score", "compress", "decompress", "generate", "to-web", "ledger"])
def test_damaged_artifacts(verb: str, toy: Path, tmp_path: Path) -> None:
    text = toy / "raw" / "00.txt"
    rest = {"score": ["--text", text], "compress": [text, "out"], "decompress": [text, "out"], "to-web": ["out"]}.get(
        verb, []
    )
    for data in damages((toy / "artifact.bg").read_bytes()).values():
        (tmp_path / "artifact.bg").write_bytes(data)
        check(run_command(verb, "artifact.bg", *map(str, rest)), status=(1, 2))
    for path in (tmp_path, "/dev/zero", "/dev/null"):
        check(run_command(verb, str(path) if path != tmp_path else str(toy / "raw"), *map(str, rest)), status=(1, 2))


@pytest.mark.parametrize("words", [["show"], ["run"], ["diff", "quickstart"]])
def test_damaged_recipes(words: list[str], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    write_json(recipe, toy_recipe().to_json())
    whole = recipe.read_bytes()
    deep = b"[" * 100_000
    others = {"list": b"[]", "number": b"9" * 5000, "deep": deep, "deep part": b'{"part":' * 50_000, "nan": b"NaN"}
    replaced = {
        "infinity": whole.replace(b'"seconds": 0.0', b'"seconds": Infinity'),
        "no part": whole.replace(b'"part": "LM"', b'"part": "os.system"'),
        "other part": whole.replace(b'"part": "LM"', b'"part": "Adam"'),
        "missing": whole.replace(b'"rows": 4,', b""),
        "null": whole.replace(b'"rows": 4,', b'"rows": null,'),
    }
    assert all(data != whole for data in replaced.values())
    for data in {**damages(whole), **others, **replaced}.values():
        if data.rstrip(b"\0\n") == whole.rstrip():
            continue
        recipe.write_bytes(data)
        check(run_command(*words, str(recipe)), status=(1, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"], "nothing was written"
