"""Removal of what a whole script does not need."""

from __future__ import annotations

import ast
import textwrap
from typing import Any

import pytest

from bitgolf.export.prune import mentioned_imports, pruned


def prune(source: str, *texts: str) -> str:
    """The source without what is superfluous for its function `main`."""
    body = ast.parse(textwrap.dedent(source)).body
    found = pruned({"module": body}, ["main"], texts)["module"]
    return ast.unparse(ast.fix_missing_locations(ast.Module(found, [])))


UNCHANGED = [
    "def main(items):\n    items.pop()",
    "def main(file):\n    x = file.read()",
    "def main(items):\n    for item in items:\n        item.run()",
    "def main(lock):\n    with lock:\n        pass",
    "LIMIT = 3\n\ndef main():\n    return LIMIT",
    "def f(x):\n    return x\n\ndef main(g):\n    return f(g, h())",  # the other argument has an effect
    "class A:\n\n    def __init__(self):\n        self.x = 1\n\ndef main():\n    return A().x",
    "class A:\n\n    def run(self):\n        return 1\n\ndef main(name):\n    return getattr(A(), 'run')",
    "class A(dict):\n\n    def run(self):\n        pass\n\ndef main():\n    return A()",  # dict may call it
    "def main(x):\n    x.update(1)",  # a dict has this method
]


@pytest.mark.parametrize("source", UNCHANGED)
def test_what_has_an_effect_stays(source: str) -> None:
    assert prune(source) == source


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(x):\n    return x\ndef main(g):\n    return f(g)", "def main(g):\n    return g"),
        ("def f(x):\n    pass\ndef main(g):\n    f(g)\n    return g", "def main(g):\n    return g"),
        ("def f(x, y):\n    return x + 1\ndef main(g):\n    return f(g, y='')", "def f(x):\n    return x + 1\n\ndef main(g):\n    return f(g)"),
        ("def f(x):\n    return x == 1\ndef main(g):\n    f(g)\n    return g", "def main(g):\n    return g"),
        ("@contextmanager\ndef f(x):\n    yield\ndef main(g):\n    with f(g):\n        g()", "def main(g):\n    g()"),
        ("def main(g):\n    for i in range(3):\n        pass\n    g()", "def main(g):\n    g()"),
        ("def main(g):\n    if len(g) > 1:\n        pass\n    g()", "def main(g):\n    g()"),
        ("def main(g):\n    x, y = len(g), g\n    return y", "def main(g):\n    y = g\n    return y"),
        ("class A:\n    def __init__(self, x):\n        self.x, self.y = x, len(x)\ndef main(g):\n    return A(g).y",
         "class A:\n\n    def __init__(self, x):\n        self.y = len(x)\n\ndef main(g):\n    return A(g).y"),
        ("class A:\n    def f(self):\n        return 1\n    def g(self):\n        return 2\ndef main():\n    return A().f()",
         "class A:\n\n    def f(self):\n        return 1\n\ndef main():\n    return A().f()"),
        ("class A:\n    def f(self):\n        return 1\nclass B(A):\n    pass\nclass C(B):\n    pass\n@register\nclass D(C):\n    pass\ndef main():\n    return D().f()",
         "class A:\n\n    def f(self):\n        return 1\n\n@register\nclass D(A):\n    pass\n\ndef main():\n    return D().f()"),
        ("class A(Struct):\n    x: Annotated[int, 3]\ndef main():\n    return A(1).x", "class A(Struct):\n    x: 0\n\ndef main():\n    return A(1).x"),
        ("UNUSED = len([])\nUSED = 2\ndef main():\n    return USED", "USED = 2\n\ndef main():\n    return USED"),
    ],
)  # fmt: skip
def test_what_is_superfluous_is_removed(source: str, expected: str) -> None:
    assert prune(source) == expected


def test_a_registered_class_stays_if_a_text_names_it() -> None:
    source = "@register\nclass A:\n    pass\n\ndef main():\n    pass"
    assert "class A" in prune(source, "A") and "class A" not in prune(source)


def test_a_struct_that_is_decoded_keeps_the_types_of_its_fields() -> None:
    source = "class B(Struct):\n    y: int\n\nclass A(Struct):\n    x: B\n\ndef main(t):\n    return decode(t, type=A)"
    assert prune(source) == source


def test_a_class_with_several_bases_keeps_their_order() -> None:
    source = "class A:\n    x = 1\n\nclass B(A):\n    pass\n\nclass C(A):\n    y = 2\n\nclass D(B, C):\n    pass\n\ndef main():\n    return D().x + D().y"
    exec(prune(source), found := dict[str, Any]())
    assert found["main"]() == 3


def test_imports_that_nothing_mentions_are_removed() -> None:
    imports = ast.parse("import a, b as c\nfrom d import e, f as g\nfrom h import i").body
    found = mentioned_imports(imports, {"module": ast.parse("c(g)").body})
    assert [ast.unparse(statement) for statement in found] == ["import b as c", "from d import f as g"]
