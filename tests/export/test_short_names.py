"""Scopes of variables, and short names that keep the meaning."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest

from bitgolf.export.minify import minified
from bitgolf.export.scopes import scopes_of

PROGRAMS = [
    "def f(first, *, second=1):\n    def g(value):\n        nonlocal first\n        first = value\n        return [first for value in range(second)]\n    return g(3), first\nreport(f(1), f(2, second=3))",
    "COUNT = 0\ndef f():\n    global COUNT\n    COUNT += 1\nf()\nreport(COUNT)",
    "class Base:\n    size = 3\n    double = size * 2\n    def area(self, times=1):\n        return self.size * times\nclass Square(Base):\n    @property\n    def corner(self):\n        return self.area(times=4)\nreport(Square().corner, Square.double)",
    "def f(**named):\n    return named\nreport(f(alpha=1, beta=2))",
    "def f(value, key):\n    return value, key\nreport(f(**{'value': 1, 'key': 2}))",
    "from typing import NamedTuple\nclass Point(NamedTuple):\n    across: 0\n    down: 0 = 2\n    def moved(self, by):\n        return self._replace(across=self.across + by)\nreport(tuple(Point(1).moved(2)), Point(across=4).down)",
    "from typing import NamedTuple\nclass Point(NamedTuple):\n    across: 0\nreport(Point._fields, Point(1)._asdict())",
    "from functools import partial\ndef f(left, right):\n    return left - right\nreport(partial(f, right=2)(5))",
    "def f(x):\n    try:\n        return x[1]\n    except IndexError as error:\n        return type(error).__name__\nreport(f([]))",
    "def f(rows):\n    return {k: [v for v in rows if (last := v)] for k in rows}, last if False else 0\nreport(sorted(map(lambda item: -item, [3, 1])))",
    "class A:\n    def get(self, key=1):\n        return key\nreport(A().get(key=2), {1: 5}.get(1))",
    "import math as m\ndef f(pi):\n    return m.floor(pi)\nreport(f(m.pi))",
    "def f(items):\n    import json\n    return json.dumps(items)\nreport(f([1]))",
    "class A:\n    pass\nitem = A()\nsetattr(item, 'state', 3)\nreport(item.state, getattr(item, 'state'))",
]  # fmt: skip


@pytest.mark.parametrize("source", PROGRAMS)
def test_a_program_with_short_names_means_the_same(source: str) -> None:
    found = list[Any]()
    for text in (source, minified(source)):
        exec(text, {"report": lambda *values: found.append(values)})
    assert len(found) == 2 and found[0] == found[1]
    assert len(minified(source)) < len(source)


def test_names_become_short() -> None:
    source = PROGRAMS[0] + "\n" + PROGRAMS[2]
    words = set(re.findall(r"[A-Za-z_]\w*", minified(source)))
    assert not {"first", "value", "Square", "self"} & words
    assert {"second", "area", "times", "corner"} <= words  # a keyword, and names of attributes


def test_names_that_others_use_stay() -> None:
    source = """
    import torch
    @register
    class Part(torch.nn.Module):
        def __init__(self, *, steps):
            self.inner = steps
        def forward(self, x):
            return self.inner(x).shape, self.helper(x)
        def helper(self, x):
            return x.sizes, "label"
    def setup(ctx, inputs, output):
        ctx.label = 1
    operator.register_autograd(backward, setup_context=setup)
    """
    text = minified("if 1:" + source)
    for name in ("Part", "steps", "inner", "forward", "shape", "ctx", "inputs", "output", "label", "sizes"):
        assert re.search(rf"\b{name}\b", text), name
    assert not re.search(r"\bself\b", text)


def test_a_variable_belongs_to_the_scope_that_binds_it() -> None:
    source = "x = 1\nclass A:\n    x = 2\n    y = x\n    def f(self):\n        return x\ndef g(y):\n    return [x for x in y], x"
    whole = scopes_of(ast.parse(source))
    owners = {type(scope.node).__name__: len(scope.variables.get("x", ())) for scope in whole.walk()}
    assert owners == {"Module": 3, "ClassDef": 2, "FunctionDef": 0, "ListComp": 2}
