"""Writes src/bitgolf/parts.pyi, from which type checkers read the classes of `bitgolf.parts`: `python tests/helpers/parts_stub.py`."""

from __future__ import annotations

from pathlib import Path

import bitgolf
from bitgolf.config.registry import part_modules

STUB = Path(bitgolf.__file__).with_name("parts.pyi")
HEADER = '"""The parts by name, for type checkers. Written by `make lint`."""\n'


def stub_lines() -> list[str]:
    """Return one import for each part, sorted by module and name."""
    found = sorted((module, name) for name, module in part_modules().items())
    return [f"from {module} import {name} as {name}" for module, name in found]


if __name__ == "__main__":
    STUB.write_text("\n".join([HEADER, *stub_lines(), ""]))
