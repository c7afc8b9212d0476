"""`import bitgolf`: what it loads, how long it takes, and what it offers."""

from __future__ import annotations

import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import bitgolf
from bitgolf.errors import UsageError

HEAVY = ("torch", "numpy", "rich", "typer", "msgspec", "sentencepiece", "numba", "safetensors")


def run_python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


def test_the_import_is_fast_and_loads_no_other_package() -> None:
    """About 15 ms on a slow core; the limit is for a busy machine."""
    program = (
        "import sys, time; start = time.perf_counter(); import bitgolf; seconds = time.perf_counter() - start; "
        f"print(seconds, [name for name in {HEAVY} if name in sys.modules])"
    )
    seconds, loaded = run_python(program).split(maxsplit=1)
    assert loaded.strip() == "[]"
    assert float(seconds) < 0.2


def test_what_needs_no_torch_loads_none() -> None:
    program = (
        "import sys, bitgolf; bitgolf.recipe_names(), bitgolf.part, bitgolf.Spec, bitgolf.Rule, bitgolf.Table, "
        "bitgolf.BitgolfError, dir(bitgolf), dir(bitgolf.parts); print('torch' in sys.modules)"
    )
    assert run_python(program) == "False\n"


def test_every_public_name_is_there_and_stays_what_it_is() -> None:
    """Also when the packages of similar names were imported, which Python makes attributes of `bitgolf`."""
    import bitgolf.recipes
    import bitgolf.training.loop

    assert set(bitgolf.__all__) <= set(dir(bitgolf))
    for name in bitgolf.__all__:
        assert getattr(bitgolf, name).__name__ == ("bitgolf.parts" if name == "parts" else name)
        assert getattr(bitgolf, name).__doc__


def test_no_public_name_is_that_of_a_package() -> None:
    packages = {path.parent.name for path in Path(bitgolf.__file__).parent.glob("*/__init__.py")}
    assert not packages & set(bitgolf.__all__)


def test_the_help_describes_the_functions() -> None:
    text = pydoc.plain(pydoc.render_doc(bitgolf))
    for name in ("train(", "load(", "recipe(", "class Model", "class RunFolder", "bits per byte"):
        assert name in text


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = bitgolf.trian  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="cannot import name 'trian'"):
        from bitgolf import trian  # type: ignore[attr-defined]  # noqa: F401


def test_the_package_is_typed() -> None:
    assert Path(bitgolf.__file__).with_name("py.typed").exists()


# ---- recipes and parts ----------------------------------------------------------------------------------------------


def test_a_recipe_is_a_value() -> None:
    from bitgolf.recipes import get_recipe

    recipe = bitgolf.recipe("quickstart")
    assert recipe == get_recipe("quickstart") and "quickstart" in bitgolf.recipe_names()
    wider = recipe.edit(bitgolf.parts.MLP, lambda node: node.replace(hidden=512))
    assert wider["model.block.mlp.hidden"] == 512 and recipe["model.block.mlp.hidden"] == 384
    other = recipe.set("model.block.mlp", bitgolf.part(bitgolf.parts.SwiGLU, hidden=256))
    assert other["model.block.mlp"].cls is bitgolf.parts.SwiGLU
    with pytest.raises(bitgolf.BitgolfError, match="no recipe named 'quickstrat'"):
        bitgolf.recipe("quickstrat")


def test_a_recipe_is_read_from_a_file(tmp_path: Path) -> None:
    from bitgolf.config.recipe_file import write_recipe

    recipe = bitgolf.recipe("quickstart").set("train.seconds", 3.0)
    write_recipe(tmp_path / "recipe.json", recipe)
    assert bitgolf.recipe(tmp_path / "recipe.json") == recipe == bitgolf.recipe(str(tmp_path / "recipe.json"))
    assert bitgolf.recipe(tmp_path) == recipe


def test_latest_without_a_run_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for function in (bitgolf.recipe, bitgolf.load, bitgolf.open_run):
        with pytest.raises(UsageError, match="there is no run yet"):
            function("latest")


def test_parts_are_found_by_name() -> None:
    from bitgolf.config.registry import part_modules
    from bitgolf.model.mlp import MLP

    assert bitgolf.parts.MLP is MLP
    assert set(part_modules()) <= set(dir(bitgolf.parts))
    with pytest.raises(AttributeError, match="did you mean SwiGLU"):
        _ = bitgolf.parts.SwigGLU  # type: ignore[attr-defined]


def test_type_checkers_see_every_part() -> None:
    from helpers.parts_stub import STUB, stub_lines

    written = [line for line in STUB.read_text().splitlines() if line.startswith("from ")]
    assert sorted(written) == sorted(stub_lines()), "`make lint` writes parts.pyi again"


def test_the_sizes_of_auto_are_chosen_for_a_budget(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text " * 10_000)
    small = bitgolf.recipe("auto", cap=60_000, seconds=30, text=tmp_path, speed=7e10)
    large = bitgolf.recipe("auto", cap=10**7, seconds=86_400, text=tmp_path, speed=7e10)
    assert (small["pack.cap"], small["train.seconds"]) == (60_000, 30) and small["name"] == "auto"
    assert large["model.dim"] >= small["model.dim"] and bitgolf.recipe("auto")["pack.cap"] == 1_000_000
    with pytest.raises(bitgolf.BitgolfError, match="only the recipe auto takes this argument") as error:
        bitgolf.recipe("quickstart", cap=60_000)
    assert error.value.where == "cap"
