"""Modules in one namespace."""

from __future__ import annotations

import ast

import pytest

from bitgolf.export import bundle as bundle_module
from bitgolf.export.bundle import bundle

MODULES = {
    "bitgolf.a": "import math\nfrom bitgolf import b\nfrom bitgolf.b import size as length\ndef size(x):\n    return length(x) + b.LIMIT + math.pi",
    "bitgolf.b": "import numpy as math\nLIMIT = 1\ndef size(x):\n    return math.size(x)",
    "bitgolf.c": "from bitgolf.a import size\ndef main(LIMIT):\n    from bitgolf.b import LIMIT as most\n    return size(most, LIMIT)",
    "bitgolf.late": "import absent\ndef kernel():\n    return absent.kernel",
}  # fmt: skip


@pytest.fixture(autouse=True)
def files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "module_files", lambda: MODULES)


def text(body: list[ast.stmt]) -> str:
    return ast.unparse(ast.fix_missing_locations(ast.Module(body, [])))


def test_each_name_of_a_module_has_a_name_of_its_own() -> None:
    bodies = {name: ast.parse(source).body for name, source in MODULES.items()}
    found = bundle(bodies, ["bitgolf.c"], {})
    assert list(found.modules) == ["bitgolf.b", "bitgolf.a", "bitgolf.c", "bitgolf.late"]
    assert text(found.modules["bitgolf.b"]) == "b_LIMIT = 1\n\ndef b_size(x):\n    return numpy.size(x)"
    assert text(found.modules["bitgolf.a"]) == "def size(x):\n    return b_size(x) + b_LIMIT + math.pi"
    assert text(found.modules["bitgolf.c"]) == "def main(LIMIT):\n    return size(b_LIMIT, LIMIT)"
    assert text(found.imports) == "import math, numpy"
    assert text(found.optional["bitgolf.late"]) == "import absent"
    assert found.names["bitgolf.b", "LIMIT"] == "b_LIMIT"


def test_a_replaced_name_is_that_of_what_replaces_it() -> None:
    bodies = {name: ast.parse(source).body for name, source in MODULES.items()}
    found = bundle(bodies, ["bitgolf.c"], {("bitgolf.a", "size"): ("bitgolf.b", "size")})
    assert "return size(b_LIMIT, LIMIT)" in text(found.modules["bitgolf.c"])
    assert "def size(x):\n    return numpy.size(x)" in text(found.modules["bitgolf.b"])
