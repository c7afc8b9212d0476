"""Every verb that takes a run, on a run of which one file is missing or damaged: one clear error, never a traceback."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bitgolf.pipeline.run_files import RunFiles
from helpers.command_line import run_command
from helpers.toy_run import finish

FILES = [
    "recipe.json",
    "inputs.json",
    "stages.json",
    "averaged.safetensors",
    "calibration.safetensors",
    "codes/codes.safetensors",
    "artifact.bg",
    "data/manifest.json",
    "data/tokenizer.model",
]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(b'{"a": [1, null, "b"]}')


def wrong_types(path: Path) -> None:
    path.write_bytes(
        b'{"prepare": 1, "train": [], "average": null, "calibrate": {"key": 3}, "quantize": "", "format": 4}'
    )


def a_list(path: Path) -> None:
    path.write_bytes(b"[1, 2]")


def folder_in_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: list[Callable[[Path], None]] = [Path.unlink, cut, empty, garbage, wrong_types, a_list, folder_in_place]
VERBS: dict[str, list[str]] = {
    "doctor": ["--tokens", "64"],
    "sweep": ["--set", "quantize.2.use.bits=3.0", "--score", "--tokens", "64"],
    "pack": ["--cap", "30000"],
    "ledger": [],
    "generate": ["--tokens", "1"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(tmp_path_factory.mktemp("finished"))


def cases() -> Iterator[Any]:
    """Every damage to every file for every verb. `make test` has each damage of each file, and of each verb, once or twice."""
    numbered = (enumerate(VERBS), enumerate(FILES), enumerate(DAMAGES))
    for (i, verb), (j, file), (k, damage) in itertools.product(*numbered):
        chosen = (k - 3 * i - j) % len(DAMAGES) < 2
        yield pytest.param(
            verb, file, damage, marks=[] if chosen else [pytest.mark.exhaustive], id=f"{verb}-{file}-{damage.__name__}"
        )


@pytest.mark.parametrize(("verb", "file", "damage"), list(cases()))
def test_a_damaged_file(verb: str, file: str, damage: Callable[[Path], None], run: Path, tmp_path: Path) -> None:
    copy = tmp_path / damage.__name__
    shutil.copytree(run, copy)
    damage(copy / file)
    done = run_command(verb, str(copy), *VERBS[verb])
    assert "Traceback" not in done.stderr and "defect of bitgolf" not in done.stderr, (damage, done.stderr)
    assert done.returncode in (0, 1, 2)
    if done.returncode and not done.stdout:
        last = done.stderr[done.stderr.rindex("bitgolf: ") :]
        assert len(last.splitlines()) <= 3, last


def test_the_files_are_those_of_a_run(run: Path) -> None:
    assert all((run / file).is_file() for file in FILES)
    assert RunFiles(run).codes == run / "codes" / "codes.safetensors"
