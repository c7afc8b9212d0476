"""What a script contains: the parts of its recipe and what they reach, in source that means the same."""

from __future__ import annotations

import ast
import builtins
import re
from functools import cache
from typing import Any

import pytest

from bitgolf.export.class_bases import foreign_bases, is_called_by_base, module_files
from bitgolf.export.minify import minified
from bitgolf.export.module_source import module_source
from bitgolf.export.scopes import scopes_of
from bitgolf.export.script import UNUSED_FIELDS, Script, make_script
from bitgolf.export.simplify import simplify_module
from bitgolf.recipes import get_recipe
from bitgolf.submission.packed_code import unpack
from bitgolf.submission.self_extracting import extracted
from bitgolf.submission.source import Source


@cache
def script(name: str) -> Script:
    return make_script({**get_recipe(name).to_json(), **UNUSED_FIELDS}, "sentencepiece")


def modules(text: str) -> dict[str, str]:
    """Module name -> source in a readable script."""
    pieces = re.split(r"^# ---- (\S+) -+$", text, flags=re.MULTILINE)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def simplified(source: str) -> str:
    return ast.unparse(simplify_module(ast.parse(source), "bitgolf.errors"))


def test_a_script_has_the_parts_of_its_recipe_and_no_command() -> None:
    found = modules(script("baseline").readable)
    assert "class Muon" in found["bitgolf.optim.muon"]
    assert not [name for name in found if name.startswith(("bitgolf.cli", "bitgolf.commands", "bitgolf.api"))]
    assert "bitgolf.score.adapt.phased_lora" not in found and "bitgolf.quantize.codecs.trellis" not in found
    assert "scipy" not in script("baseline").packages and "torch" in script("baseline").packages


@pytest.mark.parametrize("form", ["readable", "packed"])
def test_no_name_of_a_script_is_missing(form: str) -> None:
    """Each name that a script mentions is bound in it, or is Python's."""
    text = getattr(script("baseline"), form)
    whole = scopes_of(ast.parse(extracted(text) or text))
    assert whole.variables.keys() - whole.bound <= set(dir(builtins))


def test_a_script_has_no_docstrings_and_no_annotations_that_nothing_reads() -> None:
    for name, source in modules(script("baseline").readable).items():
        tree = ast.parse(source)
        assert ast.get_docstring(tree) is None, name
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and not node.decorator_list:
                assert ast.get_docstring(node) is None and node.returns is None, f"{name}: {node.name}"


def test_methods_that_nothing_calls_are_left_out() -> None:
    source = modules(script("baseline").readable)["bitgolf.config.spec"]
    assert "def to_json" in source and "def __call__" in source
    assert "def walk" not in source and "def edit" not in source


def test_check_unpacks_the_packed_form() -> None:
    made = script("baseline")
    layers = unpack(Source("train_gpt.py", made.packed))
    assert [layer.error for layer in layers] == [None, None] and layers[0].is_packed
    assert made.bytes == len(made.packed.encode())
    assert layers[1].text == minified(made.readable)


def test_bases_in_other_packages_are_found_through_imports() -> None:
    assert foreign_bases("bitgolf.model.part", "Part") == {"torch.nn.Module"}
    assert "msgspec.Struct" in foreign_bases("bitgolf.pipeline.training_result", "TrainingResult")
    assert "dataclass" in foreign_bases("bitgolf.pipeline.run_files", "RunFiles")
    assert is_called_by_base("bitgolf.model.mlp", "MLP", "forward")
    assert not is_called_by_base("bitgolf.config.spec", "Spec", "walk")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('def f(x: int) -> int:\n    """Doc."""\n    assert x\n    return cast(int, x)', "def f(x):\n    return x"),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", "import b"),
        ("def f(x):\n    if x < 1:\n        raise UsageError(f'{x}', hint='h')\n    return x", "def f(x):\n    return x"),
        ("def f(x):\n    if (y := g(x)):\n        raise UsageError('')\n    return y", "def f(x):\n    (y := g(x))\n    return y"),
        ("def f(x):\n    if x.pop():\n        raise UsageError('')", "def f(x):\n    x.pop()"),
        ("def f(x):\n    message = f'{x}'\n    raise Unsupported(message)", "def f(x):\n    raise Unsupported"),
        ("def f():\n    try:\n        g()\n    except OSError as error:\n        raise BitgolfError('') from error", "def f():\n    g()"),
        ("def f(log):\n    log.detail('a')\n    log.info('b')", "def f(log):\n    log.info('b')"),
        ("found = dict[str, int]()", "found = dict()"),
        ("class A(ABC, Generic[T]):\n    @abstractmethod\n    def f(self):\n        ...\n    x = 1", "class A:\n    x = 1"),
        ("class A(B[T]):\n    def f(self):\n        raise NotImplementedError\n    x = 1", "class A(B[T]):\n    x = 1"),
    ],
)  # fmt: skip
def test_what_a_script_does_not_need_is_removed(source: str, expected: str) -> None:
    assert simplified(source) == expected


FUNCTION = """
LIMIT = 3
def f(first, *, second=1):
    total = [0]
    def add(value):
        total[0] += value * LIMIT
        return total
    for number in range(first):
        words = [f"{number:>{second}} {item}" for item in "ab" if item]
        add(number)
    return total, words, {"total": 1 if first else 2}
report(f(3, second=4))
"""


def test_minified_source_means_the_same() -> None:
    found = list[Any]()
    exec(FUNCTION, {"report": found.append})
    exec(minified(FUNCTION), {"report": found.append})
    assert len(found) == 2 and found[0] == found[1]
    assert not {"number", "words", "LIMIT", "first"} & set(re.findall(r"\w+", minified(FUNCTION)))
    assert "second" in minified(FUNCTION)  # it is passed by keyword
    assert len(minified(FUNCTION)) < 0.7 * len(FUNCTION)


def test_spaces_are_left_out_without_a_change_of_the_tree() -> None:
    """Of every module of the package: names aside, the trees are equal."""
    for name in sorted(module_files())[::12]:
        source = ast.unparse(ast.Module(module_source(name).statements, []))
        kinds = [[type(node) for node in ast.walk(ast.parse(text))] for text in (source, minified(source))]
        assert kinds[0] == kinds[1], name
