"""The script of a recipe: one file with the modules that it reaches, in a readable and in a packed form.

Both forms hold the sources of modules by name, and an importer that executes them when they are imported, so every
module keeps its own names and nothing is renamed. The packed form is compressed and written in base 85.
"""

from __future__ import annotations

import ast
import base64
import copy
import lzma
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import brotli

from bitgolf.config.registry import part_modules
from bitgolf.config.spec import Spec
from bitgolf.export.module_source import ModuleSource, module_source
from bitgolf.export.reach import FunctionNode, Reached

if TYPE_CHECKING:
    from bitgolf.recipes.recipe import Recipe

PROGRAM = "bitgolf.export.program"
SHORT_FORMS = "bitgolf.export.short_forms"

IMPORTER = '''\
import sys
from importlib.machinery import ModuleSpec


class Importer:
    """Imports the modules of this file: executes the source that SOURCES has for a name."""

    def find_spec(self, name, path=None, target=None):
        if name in SOURCES:
            spec = ModuleSpec(name, self, is_package=any(n.startswith(name + ".") for n in SOURCES))
            spec.origin, spec.has_location = "<%s>" % name, False
            return spec
        if name.split(".")[0] == "bitgolf":
            raise ModuleNotFoundError("%s is not in this file" % name, name=name)

    def create_module(self, spec):
        return None

    def get_source(self, name):
        return SOURCES[name]

    def exec_module(self, module):
        name = module.__name__
        exec(compile(SOURCES[name], "<%s>" % name, "exec", ANNOTATIONS), module.__dict__)


ANNOTATIONS = 1 << 24  # annotations are not evaluated, as with `from __future__ import annotations`
sys.meta_path.insert(0, Importer())
'''


class Script(NamedTuple):
    """The script of a recipe. readable, packed: its two forms. requirements: names of the packages that it imports."""

    readable: str
    packed: str
    packages: list[str]

    @property
    def bytes(self) -> int:
        """Size of the packed form, which is what counts as code."""
        return len(self.packed.encode())


def reached_by(recipe: Any) -> Reached:
    """Return the code that a recipe reaches: its parts, and the program that runs it."""
    replaced = {
        (statement_module(node), node.name): (SHORT_FORMS, node.name)
        for node in module_source(SHORT_FORMS).statements
        if isinstance(node, ast.FunctionDef) and node.decorator_list
    }
    reached = Reached(replaced)
    reached.follow([(PROGRAM, "main"), *((part_modules()[name], name) for name in part_names(recipe))])
    return reached


def statement_module(node: ast.FunctionDef) -> str:
    """Return the module whose function a short form replaces: the argument of its decorator."""
    decorator = node.decorator_list[0]
    assert isinstance(decorator, ast.Call) and isinstance(decorator.args[0], ast.Constant)
    return str(decorator.args[0].value)


def module_text(reached: Reached, source: ModuleSource) -> str:
    """Return the source of what is reached in a module, with the imports that it uses."""
    used, replaced = reached.names[source.name], reached.substituted[source.name]
    body = list[ast.stmt]()
    if replaced:
        body.append(ast.ImportFrom(SHORT_FORMS, [ast.alias(name) for name in sorted(replaced)], 0))
    for index, statement in enumerate(source.statements):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            names = [alias for alias in statement.names if (alias.asname or alias.name.split(".")[0]) in used]
            if names:
                kept = copy.copy(statement)
                kept.names = names
                body.append(kept)
        elif index in reached.statements[source.name]:
            body.append(_without_unreached(reached, statement))
    return ast.unparse(ast.fix_missing_locations(ast.Module(body, [])))


def _without_unreached(reached: Reached, statement: ast.stmt) -> ast.stmt:
    if isinstance(statement, ast.FunctionDef) and statement.decorator_list:
        first = statement.decorator_list[0]
        if isinstance(first, ast.Call) and isinstance(first.func, ast.Name) and first.func.id == "short_form_of":
            statement = copy.copy(statement)
            statement.decorator_list = []
    if not isinstance(statement, ast.ClassDef):
        return statement
    kept = copy.copy(statement)
    kept.body = [s for s in statement.body if not isinstance(s, FunctionNode) or s in reached.methods] or [ast.Pass()]
    return kept


def minimal_json(value: Any) -> Any:
    """Return the JSON form of a recipe without arguments that have their default value."""
    if isinstance(value, Spec):
        from bitgolf.config.spec import schema

        known = schema(value.cls)
        changed = {k: minimal_json(v) for k, v in value.kwargs.items() if not _same(v, known[k][1])}
        return {"part": value.name, **changed}
    if isinstance(value, tuple):
        return [minimal_json(item) for item in value]
    return value


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and value == default


def recipe_script(recipe: Spec[Recipe]) -> Script:
    """Return the script of a recipe."""
    return make_script(minimal_json(recipe.replace(published=None)))


def part_names(value: Any) -> set[str]:
    """Return the names of the parts in the JSON form of a recipe."""
    if isinstance(value, dict):
        own = {value["part"]} if "part" in value else set[str]()
        return own.union(*map(part_names, value.values()))
    return set[str]().union(*map(part_names, value)) if isinstance(value, list) else set()


def make_script(recipe: Any) -> Script:
    """Return the script of a recipe in its JSON form."""
    reached = reached_by(recipe)
    sources = {name: module_text(reached, module_source(name)) for name in _order(reached.modules)}
    readable = _assemble(recipe, sources, headings=True)
    return Script(readable, pack(_assemble(recipe, sources)), packages(sources.values()))


def _order(modules: Iterable[str]) -> list[str]:
    return sorted(modules)


def _assemble(recipe: Any, sources: dict[str, str], *, headings: bool = False) -> str:
    text = ["SOURCES = {}"]
    for name, source in sources.items():
        text.append(f"\n# ---- {name} {'-' * (90 - len(name))}" if headings else "")
        text.append(f'SOURCES["{name}"] = {_literal(source)}')
    text.append(IMPORTER)
    text.append(f"RECIPE = {recipe!r}")
    text.append("\n".join(f"import {name}" for name in sorted({part_modules()[part] for part in part_names(recipe)})))
    text.append(f"from {PROGRAM} import main\n\nif __name__ == '__main__':\n    main(RECIPE)\n")
    return "\n".join(text)


def _literal(source: str) -> str:
    """Return source text as a literal of Python that can be read as it is, if it may stand in one."""
    if "'''" in source or source.endswith(("'", "\\")):
        return repr(source)
    return f"r'''\n{source}\n'''" if source else "''"


def pack(text: str) -> str:
    """Return a script of two lines that decompresses a script and executes it."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "pb": 0}]
    data = text.encode()
    small = {
        "brotli": brotli.compress(data, quality=11, lgwin=24, mode=brotli.MODE_TEXT),
        "lzma": lzma.compress(data, lzma.FORMAT_RAW, filters=filters),
    }
    print({k: len(v) for k, v in small.items()}, len(data))
    code = base64.b85encode(small["brotli"]).decode()
    return f'import base64,brotli\nexec(compile(brotli.decompress(base64.b85decode("{code}")),"train_gpt","exec"))\n'


def packages(sources: Iterable[str]) -> list[str]:
    """Return the names of the packages, other than Python's own, that sources import."""
    import sys

    found = set[str]()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").split(".")[0])
    return sorted(found - set(sys.stdlib_module_names) - {"bitgolf"})
