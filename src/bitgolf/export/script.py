"""The script of a recipe: one file with the modules that it reaches, in a readable and in a packed form.

Both forms hold the sources of modules by name, and an importer that executes them when they are imported, so every
module keeps its own names and nothing is renamed. The packed form is compressed and written in base 85.
"""

from __future__ import annotations

import ast
import base64
import copy
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import brotli

from bitgolf.config.registry import part_modules
from bitgolf.config.spec import Spec
from bitgolf.export.class_bases import module_tree
from bitgolf.export.fold import Default, part_defaults, used_defaults
from bitgolf.export.minify import minified
from bitgolf.export.module_source import ModuleSource
from bitgolf.export.reach import FunctionNode, Reached
from bitgolf.export.short_forms import CALIBRATION

if TYPE_CHECKING:
    from bitgolf.recipes.recipe import Recipe

PROGRAM = "bitgolf.pipeline.script_program"
SHORT_FORMS = "bitgolf.export.short_forms"
OPENMP = ("bitgolf.runtime.openmp", "limit_spinning")
TOKENIZERS = {"sentencepiece": "open_sentencepiece", "caseops": "open_caseops", "bytes": "open_bytes"}
"""Kind of a tokenizer -> the short form that opens its file. A script for another kind opens any file."""

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


def reached_by(recipe: Any, tokenizer: str) -> Reached:
    """Return the code that a recipe reaches: its parts, and the program that runs it. tokenizer: its kind.

    A part that the recipe does not name has no objects unless the code builds one or derives a class from it. So it is
    first taken to be absent; a part that is reached nevertheless is not, and all is followed again. The same holds for
    default values of arguments.
    """
    replaced = {
        (_replaced_module(node), node.name): (SHORT_FORMS, node.name)
        for node in module_tree(SHORT_FORMS).body
        if isinstance(node, ast.FunctionDef) and node.decorator_list
    }
    if tokenizer in TOKENIZERS:
        replaced["bitgolf.tokens.loading", "tokenizer_from_bytes"] = (SHORT_FORMS, TOKENIZERS[tokenizer])
    if recipe.get("calibrate") is None:
        replaced |= dict.fromkeys(CALIBRATION, (SHORT_FORMS, "no_calibration"))
    modules, parts = part_modules(), part_names(recipe)
    absent, unused = set(modules) - parts, _unused_defaults(recipe, modules)
    while True:
        reached = Reached(replaced, absent, unused)
        reached.follow([(PROGRAM, "main"), OPENMP, *((modules[name], name) for name in parts)])
        built = {name for name in absent if reached.has(modules[name], name)}
        used = {default for node in reached.nodes() for default in used_defaults(node, unused)}
        if not built and not used:
            return reached
        absent -= built
        unused -= used


def _unused_defaults(recipe: Any, modules: dict[str, str]) -> set[Default]:
    """Return the default values of parts that no part of a recipe uses, as each states the argument."""
    found = set[Default]()
    for name, module in modules.items():
        classes = (node for node in module_tree(module).body if isinstance(node, ast.ClassDef) and node.name == name)
        found |= {(name, argument) for node in classes for argument in part_defaults(node)}
    return found - {
        (part["part"], argument) for part in parts_in(recipe) for _, argument in found if argument not in part
    }


def _replaced_module(node: ast.FunctionDef) -> str:
    """Return the module whose function a short form replaces: the argument of its decorator."""
    decorator = node.decorator_list[0]
    assert isinstance(decorator, ast.Call) and isinstance(decorator.args[0], ast.Constant)
    return str(decorator.args[0].value)


def module_text(reached: Reached, source: ModuleSource) -> str:
    """Return the source of what is reached in a module, with the imports that it uses."""
    used, replaced = reached.names[source.name], reached.substituted[source.name]
    body = list[ast.stmt]()
    if replaced:
        body.append(ast.ImportFrom(SHORT_FORMS, [_alias(reached, source.name, name) for name in sorted(replaced)], 0))
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


def _alias(reached: Reached, module: str, name: str) -> ast.alias:
    short = reached.replaced[module, name][1]
    return ast.alias(short, name) if short != name else ast.alias(name)


def _without_unreached(reached: Reached, statement: ast.stmt) -> ast.stmt:
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
    """Return whether a value is the default of its argument. Parts are always stated, so that defaults are unused."""
    parts = isinstance(value, Spec) or (isinstance(value, tuple) and any(isinstance(item, Spec) for item in value))
    return not parts and type(value) is type(default) and value == default


def recipe_script(recipe: Spec[Recipe], tokenizer: str = "sentencepiece") -> Script:
    """Return the script of a recipe. tokenizer: the kind of its tokenizer."""
    return make_script({**minimal_json(recipe), **UNUSED_FIELDS}, tokenizer)


UNUSED_FIELDS = {"text": None, "tokens": None, "proof": None, "published": None}
"""Fields of a recipe that a script does not use: it reads shards, and scores."""


def parts_in(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the parts in the JSON form of a recipe."""
    if isinstance(value, dict):
        if "part" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from parts_in(item)


def part_names(recipe: Any) -> set[str]:
    """Return the names of the parts in the JSON form of a recipe."""
    return {part["part"] for part in parts_in(recipe)}


def make_script(recipe: Any, tokenizer: str) -> Script:
    """Return the script of a recipe in its JSON form. tokenizer: the kind of its tokenizer."""
    reached = reached_by(recipe, tokenizer)
    sources = {name: module_text(reached, reached.source(name)) for name in _order(reached.modules)}
    readable = _assemble(recipe, sources, headings=True)
    short = {name: minified(source) for name, source in sources.items()}
    return Script(readable, pack(_assemble(recipe, short)), packages(sources.values()))


def _order(modules: Iterable[str]) -> list[str]:
    return sorted(modules)


def _assemble(recipe: Any, sources: dict[str, str], *, headings: bool = False) -> str:
    text = ["SOURCES = {}"]
    for name, source in sources.items():
        text.append(f"\n# ---- {name} {'-' * (90 - len(name))}" if headings else "")
        text.append(f'SOURCES["{name}"] = {_literal(source)}')
    text.append(IMPORTER)
    text.append(f"from {OPENMP[0]} import {OPENMP[1]}\n\n{OPENMP[1]}()  # before torch is imported")
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
    data = brotli.compress(text.encode(), quality=11, lgwin=24, mode=brotli.MODE_TEXT)
    code = base64.b85encode(data).decode()
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
