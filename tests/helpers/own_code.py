"""Code files and plugins for tests, written to a temporary folder and removed from this process afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitgolf.config.code_files import CODE_FILES, unload_code
from bitgolf.config.registry import REGISTRY, in_package
from bitgolf.recipes import get_recipe

PLUGIN = "bitgolf_"
"""Start of the names of the modules of plugins."""

OWN_PARTS = '''
"""An activation, a codec, a coder and a scoring method, each with another name than those of the package."""

from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.model.interfaces import Activation
from bitgolf.pack.byte_coders import Zlib
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.score.methods import ContiguousScoring


@register
class CubedReLU(Activation):
    """relu(u)^3."""

    def forward(self, u: Tensor) -> Tensor:
        return u.relu() ** 3


@register
class OwnRows(IntRows):
    """Rows of integers."""


@register
class OwnCoder(Zlib):
    """Deflate."""

    name = "own"


@register
class OwnWindows(ContiguousScoring):
    """Windows side by side."""

    name = "own_windows"
'''


def remove_own_code() -> None:
    """Remove code files and plugins, and all parts that are not of the package, from this process."""
    for module in list(CODE_FILES):
        unload_code(module)
    for name, cls in list(REGISTRY.items()):
        if not in_package(cls):
            del REGISTRY[name]
    for module in [module for module in sys.modules if module.startswith(PLUGIN)]:
        del sys.modules[module]
    get_recipe.cache_clear()


@pytest.fixture(autouse=True)
def own_code_removed() -> Iterator[None]:
    """Remove code files and plugins after each test. Import it where tests load them."""
    path = list(sys.path)
    yield
    remove_own_code()
    sys.path[:] = path


def write_code(folder: Path, name: str, text: str) -> Path:
    """Write a code file; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def install(folder: Path, distribution: str, version: str, entries: dict[str, str], modules: dict[str, str]) -> None:
    """Install a distribution in `folder`, which is put on the search path of this process.

    entries: name -> value of the entry points. modules: name of a module -> its source.
    """
    about = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    lines = [f"{name} = {value}\n" for name, value in entries.items()]
    (about / "entry_points.txt").write_text("[bitgolf]\n" + "".join(lines))
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    sys.path.insert(0, str(folder))
