"""Each package imports only from lower layers; the layers are those of `docs/architecture.md`."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bitgolf

LAYERS = [
    {"errors"},
    {"files"},
    {"report"},
    {"config"},
    {"runtime"},
    {"average", "grids", "kernels", "optim", "pack", "portable", "significance", "submission", "text", "tracking"},
    {"tokens"},
    {"data", "model"},
    {"quantize", "training"},
    {"score"},
    {"recipes"},
    {"artifact", "cautions"},
    {"export", "web"},
    {"pipeline"},
    {"evidence", "huggingface", "store", "watch"},
    {"sweeps"},
    {"commands"},
    {"api", "cli", "parts"},
    {"lm_harness"},
    {"__init__", "__main__"},
]
"""Packages and top-level modules, lowest layer first. Each imports from lower layers only, and from itself."""

ROOT = Path(bitgolf.__file__).parent
LEVEL = {name: i for i, names in enumerate(LAYERS) for name in names}


def imports() -> Iterator[tuple[Path, str, str]]:
    for path in sorted(ROOT.rglob("*.py")):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            if isinstance(node, ast.ImportFrom) and node.module == "bitgolf":
                modules = [f"bitgolf.{a.name}" for a in node.names if not a.name.startswith("__")]
            if isinstance(node, ast.Import):
                modules = [a.name for a in node.names]
            for module in modules:
                if module.startswith("bitgolf."):
                    yield path, room, module.split(".")[1]


def test_every_package_has_a_layer() -> None:
    rooms = {p.relative_to(ROOT).parts[0].removesuffix(".py") for p in ROOT.rglob("*.py")}
    assert rooms == set(LEVEL)


def test_imports_run_down_only() -> None:
    wrong = []
    for path, room, other in imports():
        if room == other:
            continue
        level = "up" if LEVEL[other] > LEVEL[room] else "across" if LEVEL[other] == LEVEL[room] else "down"
        if level != "down":
            wrong.append(f"{path.relative_to(ROOT)} imports {other} ({level})")
    assert not wrong


def test_the_command_line_and_the_language_import_no_torch() -> None:
    """`--help` takes less than half a second, because nothing that it imports needs torch."""
    names = ("files", "report/log", "pipeline/execute", "recipes/__init__")
    room = sorted(path for name in ("cli", "config") for path in (ROOT / name).rglob("*.py"))
    assert len(room) > 1
    for path in (*room, *(ROOT / f"{name}.py" for name in names)):
        top = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)]
        assert not any("torch" in ast.unparse(n) for n in top), path


def test_listing_recipes_loads_no_torch() -> None:
    """The command line does not import torch either, in spite of its annotations."""
    program = (
        "import sys, bitgolf.cli, bitgolf.recipes.identity, bitgolf.recipes as r; "
        "[(r.describe(name), r.published_bpb(name)) for name in (*r.recipe_names(), *r.experiment_names())]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_run_and_a_model_without_values_load_no_compiler() -> None:
    """It takes as long to import as PyTorch itself, in each of a run's processes."""
    program = (
        "import sys, bitgolf.pipeline.execute; from bitgolf.recipes import get_recipe; "
        "from bitgolf.model.build import build_on_meta; "
        "[build_on_meta(get_recipe(name)().model, 1024) for name in ('quickstart', 'pr1855')]; "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_showing_a_recipe_loads_neither_sympy_nor_numba() -> None:
    """Each takes about as long to import as all other work of `show`."""
    program = (
        "import sys; from bitgolf.recipes import get_recipe; from bitgolf.commands.show import describe_recipe; "
        "[describe_recipe(get_recipe(name)) for name in ('quickstart', 'pr1855')]; "
        "sys.exit(any(name in sys.modules for name in ('sympy', 'numba')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_files_stay_short() -> None:
    long = {str(p.relative_to(ROOT)): n for p in ROOT.rglob("*.py") if (n := len(p.read_text().splitlines())) > 350}
    assert not long
