"""Constants of a whole script take the place of what always has the same value, and decide branches."""

from __future__ import annotations

import ast
import textwrap
from typing import Any

import pytest

from bitgolf.export.prune import pruned

REGISTERED = "def register(cls):\n    REGISTRY.append(cls)\n    return cls\n"


def prune(source: str, parts: dict[str, list[dict[str, Any]]] | None = None, *texts: str) -> str:
    """The source without what is superfluous for its function `main`. parts: of the recipe, by class."""
    body = ast.parse(textwrap.dedent(source)).body
    found = pruned({"module": body}, ["main"], texts, parts or {})["module"]
    return ast.unparse(ast.fix_missing_locations(ast.Module(found, [])))


UNCHANGED = [
    "def f(x, n):\n    return x + n\n\ndef main(g):\n    return f(g, 1) + f(g, 2)",  # two values
    "def f(x, n):\n    return x + n\n\ndef main(g):\n    return f(g, 1) + g(f)",  # called by another
    "def f(x, *, n=1):\n    return x + n\n\ndef main(g, **others):\n    return f(g, **others)",
    "def f(x, n):\n    n += x\n    return n\n\ndef main(g):\n    return f(g, 1)",  # assigned again
    "def main(g):\n    n = 1\n    for n in g:\n        g(n)\n    return n",
    "def main(g):\n    n = 1\n\n    def add():\n        nonlocal n\n        n += g\n    add()\n    return n",
    "def main(g):\n    n = []\n    g(n)\n    return n",  # a list may grow
    "class A:\n\n    def __init__(self):\n        self.n = 1\n\n    def grow(self):\n        self.n += 1\n\ndef main(g):\n    a = A()\n    a.grow()\n    return a.n",
    "class A:\n\n    def __init__(self):\n        self.n = 1\n\ndef main(g):\n    a = A()\n    setattr(a, 'n', g)\n    return a.n",
    "class A:\n\n    def __init__(self):\n        self.n = 1\n\ndef main(g):\n    a = A()\n    for a.n in g:\n        g(a.n)",
    "class A:\n\n    def __init__(self):\n        self.many = []\n\ndef main(g):\n    a = A()\n    a.many.append(g)\n    return a.many",
    "class A:\n\n    def __init__(self):\n        self.shape = 1\n\ndef main(g):\n    return (A().shape, g.shape)",  # of a tensor
    "class A(NamedTuple):\n    n: 0 = 1\n\ndef main(g):\n    return A()._replace(n=g).n",
    "class A(NamedTuple):\n    n: 0 = 1\n\ndef main(g):\n    return A(*g).n",
    "def main(g):\n    return g() and False",  # the call has an effect, and the value counts
    "def main(g):\n    if g() and False:\n        g(1)",
]  # fmt: skip


@pytest.mark.parametrize("source", UNCHANGED)
def test_what_may_have_another_value_stays(source: str) -> None:
    assert prune(source) == source


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(x, n=1):\n    return x + n\ndef main(g):\n    return f(g) + f(g, 1) + f(g, n=1)", "def f(x):\n    return x + 1\n\ndef main(g):\n    return f(g) + f(g) + f(g)"),
        ("def f(x, n=None):\n    return x if n is None else x[n]\ndef main(g):\n    return f(g)", "def main(g):\n    return g"),
        ("def f(x):\n    return 'a'\ndef main(g):\n    return f(g) + g", "def main(g):\n    return 'a' + g"),
        ("def main(g):\n    n = None\n    if n:\n        g(1)\n    else:\n        g(2)", "def main(g):\n    g(2)"),
        ("def main(g):\n    n = 1\n    if n:\n        return g\n    g(2)", "def main(g):\n    return g"),
        ("def main(g):\n    n = 0\n    if g and n:\n        g(1)\n    return g(n or 3)", "def main(g):\n    return g(3)"),
        ("def main(g):\n    n = 1\n    if g and n:\n        g(1)", "def main(g):\n    if g:\n        g(1)"),
        ("def f():\n    pass\ndef main(g):\n    if (n := f()):\n        g(n)\n    return n", "def main(g):\n    return None"),
        ("def main(g):\n    n = ()\n    for i, x in enumerate(n):\n        g(i)\n    return [x for x in n] or g", "def main(g):\n    return g"),
        ("def main(g):\n    n = 8\n    return g(2 ** (n - 1) - 1, n == 8, not n)", "def main(g):\n    return g(127, True, False)"),
        ("class A:\n    flavor = 'a'\n    def __init__(self):\n        self.n = None\ndef main(g):\n    a = A()\n    return g(a) if a.n or a.flavor == 'b' else a", "class A:\n\n    def __init__(self):\n        pass\n\ndef main(g):\n    a = A()\n    return a"),
        ("class A:\n    def __init__(self):\n        self.many = []\ndef main(g):\n    a = A()\n    for x in a.many:\n        g(x)\n    return a", "class A:\n\n    def __init__(self):\n        pass\n\ndef main(g):\n    a = A()\n    return a"),
        ("class A(NamedTuple):\n    x: 0\n    n: 0 = 1\ndef main(g):\n    a = A(g)\n    return a.x + a.n", "class A(NamedTuple):\n    x: 0\n    n: 0 = 1\n\ndef main(g):\n    a = A(g)\n    return a.x + 1"),
        ("def main(g):\n    n = False\n    if n:\n        yield g", "def main(g):\n    return\n    yield"),
    ],
)  # fmt: skip
def test_constants_take_the_place_of_names(source: str, expected: str) -> None:
    assert prune(source) == expected


PART = "@register\nclass A:\n\n    def __init__(self, *, size=1.0, kind=None):\n        self.n = use(size, kind)\n\ndef main(g):\n    return make(g).n"


@pytest.mark.parametrize(
    ("parts", "call"),
    [
        ([{"part": "A", "size": 3}], "use(3.0, None)"),  # a whole number becomes a float, as in a recipe
        ([{"part": "A"}], "use(1.0, None)"),
        ([{"part": "A", "kind": "a"}, {"part": "A", "kind": "a"}], "use(1.0, 'a')"),
        ([{"part": "A", "kind": "a"}, {"part": "A"}], "use(1.0, kind)"),
        ([{"part": "A", "size": 2.0}, {"part": "A", "kind": {"part": "B"}}], "use(size, kind)"),
    ],
)
def test_the_recipe_fixes_arguments_of_its_parts(parts: list[dict[str, Any]], call: str) -> None:
    found = prune(PART, {"A": parts}, "A")
    assert f"self.n = {call}" in found
    assert "size=1.0, kind=None" in found  # the form of the part in an artifact stays


def test_a_setting_that_the_script_changes_is_not_fixed() -> None:
    source = PART + "\n\ndef limited(g):\n    return g.set('train.size', 2.0)\n"
    assert "use(size, None)" in prune(source.replace("make(g)", "make(limited(g))"), {"A": [{"part": "A"}]}, "A")
