"""The size of the code of a recipe: that of the script which `export` writes, kept in the user's cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bitgolf.commands.export import ExportOptions, export_runs
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.pack.settings import Pack
from bitgolf.pipeline import code_size as module
from bitgolf.pipeline.code_size import CodeSize, check_room, code_size, no_script_because, size_by_trainer
from bitgolf.quantize.tuning import FloatTuning
from bitgolf.recipes import get_recipe
from bitgolf.recipes.recipe import Recipe
from bitgolf.tokens.trainers import ByteLevel, TokenizerFile
from helpers.damage import finished_copy
from helpers.toy import toy_recipe
from helpers.toy_run import run_again

pytestmark = pytest.mark.usefixtures("real_script_sizes")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A cache of this test alone, in a process that has measured nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_KNOWN", {})
    yield tmp_path / "cache" / "bitgolf" / "code_sizes"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The recipes of the scripts that are made from now on. Each has a byte more than the one before, from 80,000 on."""
    found = list[str]()

    def make(recipe: Spec[Recipe], tokenizer: str) -> Any:
        found.append(f"{recipe['name']} {tokenizer}")
        return SimpleNamespace(bytes=79_999 + len(found))

    monkeypatch.setattr(module, "recipe_script", make)
    return found


def forget() -> None:
    """What a new process knows: nothing but the files."""
    module._KNOWN.clear()


def test_a_script_is_made_once_for_each_recipe(cache: Path, made: list[str]) -> None:
    recipe = toy_recipe()
    assert [code_size(recipe, "bytes") for _ in range(2)] == 2 * [CodeSize(80_000)]
    forget()
    other_text = recipe.replace(published={"bpb": 1.0}).set("tokens.vocab", 400)  # a script has neither
    assert code_size(recipe, "bytes") == code_size(other_text, "bytes") == CodeSize(80_000)
    changed = recipe.set("train.steps", 123_456_789)
    assert code_size(changed, "bytes") == CodeSize(80_001) and code_size(recipe, "caseops") == CodeSize(80_002)
    assert code_size(recipe.replace(name="other"), "bytes") == CodeSize(80_003)
    assert made == ["toy bytes", "toy bytes", "toy caseops", "other bytes"] and len(list(cache.iterdir())) == 4


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-9]),
    "another number": lambda file: file.write_text(file.read_text().replace('"bytes": ', '"bytes": 1')),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "gone": Path.unlink,
}


@pytest.mark.usefixtures("made")
def test_a_damaged_size_is_measured_again(cache: Path) -> None:
    assert code_size(toy_recipe(), "bytes").bytes == 80_000
    (file,) = cache.iterdir()
    for i, damage in enumerate(DAMAGE.values()):
        forget()
        damage(file)
        assert code_size(toy_recipe(), "bytes").bytes == 80_001 + i
        if file.is_dir():
            file.rmdir()
            file.write_text("")


@pytest.mark.usefixtures("cache", "made")
def test_another_source_of_the_package_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert code_size(toy_recipe(), "bytes").bytes == 80_000
    forget()
    monkeypatch.setattr(module, "package_digest", lambda: "changed")
    assert code_size(toy_recipe(), "bytes").bytes == 80_001


@pytest.mark.exhaustive
def test_the_size_does_not_depend_on_the_process() -> None:
    """Nothing in a script has the order of a set of texts, which differs between processes."""
    program = (
        "from bitgolf.export.script import recipe_script; from bitgolf.recipes import get_recipe;"
        "print(recipe_script(get_recipe('pr1855'), 'caseops').packed)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1


# ---- recipes without a script --------------------------------------------------------------------------------------


def test_a_recipe_that_no_script_can_run_has_no_size(made: list[str]) -> None:
    tuned = toy_recipe().replace(tune=part(FloatTuning))
    assert code_size(tuned, "sentencepiece") == CodeSize(None, no_script_because(tuned)) and not made
    assert "tune" in no_script_because(tuned) and not no_script_because(toy_recipe())


def test_the_kind_of_the_tokenizer_is_that_of_the_recipe(tmp_path: Path) -> None:
    assert [get_recipe(name)().tokens().kind for name in ("quickstart", "pr1855")] == ["sentencepiece", "caseops"]
    assert part(ByteLevel)().kind == "bytes"
    missing = toy_recipe().replace(tokens=part(TokenizerFile, path=str(tmp_path / "no.model"), vocab=300))
    found = size_by_trainer(missing)
    assert found.bytes is None and "no.model" in found.note


# ---- caps ----------------------------------------------------------------------------------------------------------


def test_a_cap_below_the_script_is_refused() -> None:
    pack = toy_recipe()["pack"].replace(cap=80_000)
    check_room(pack(), CodeSize(80_000))
    counted: Pack = pack.replace(counted="model+code")()
    check_room(counted, CodeSize(79_999))
    check_room(counted, CodeSize(None, "a reason"))
    with pytest.raises(RecipeError, match=r"80,000 bytes, which leaves nothing of a cap of 80,000") as error:
        check_room(counted, CodeSize(80_000))
    assert "pack.counted=model" in error.value.hint


def test_the_ledger_counts_the_script_that_export_writes(tmp_path: Path) -> None:
    """Of two recipes: one whose cap is of the model, and one whose cap is of both."""
    folder = finished_copy(tmp_path)
    for i, sets in enumerate(([], ["pack.counted=model+code", "pack.cap=1_000_000"])):
        result = run_again(folder, *sets)
        export_runs([folder], tmp_path / f"record{i}", ExportOptions())
        sizes, script = result.bytes, tmp_path / f"record{i}" / "train_gpt.py"
        assert sizes.code and sizes.code == script.stat().st_size and not sizes.code_note
        assert sizes.total == sizes.model + (sizes.code if i else 0) and result.fits
        assert sizes.counted == ("model+code" if i else "model")
        claims = json.loads((script.parent / "submission.json").read_text())
        assert claims["bytes_total"] == sizes.model + sizes.code
