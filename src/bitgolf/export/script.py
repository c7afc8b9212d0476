"""The script of a recipe: one file with the modules that it reaches, in a readable and in a packed form.

In both forms, all modules share one namespace (`bundle`). The readable form has the names of the package; the packed
form has short ones (`minify`), and is compressed.
"""

from __future__ import annotations

import ast
import copy
import gc
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from bitgolf.config.registry import part_modules
from bitgolf.config.spec import Spec
from bitgolf.export.bundle import MergedModules, Symbol, bundle
from bitgolf.export.class_bases import module_text, module_tree
from bitgolf.export.fold import Default, part_defaults, used_defaults
from bitgolf.export.minify import minified
from bitgolf.export.module_source import ModuleSource
from bitgolf.export.prune import mentioned_imports, pruned
from bitgolf.export.reach import Reached
from bitgolf.export.scopes import FunctionNode
from bitgolf.export.short_runs import CALIBRATION, CONTEXTS
from bitgolf.export.walk import copied, walk
from bitgolf.submission.self_extracting import self_extracting

if TYPE_CHECKING:
    from bitgolf.recipes.recipe import Recipe

PROGRAM = "bitgolf.pipeline.script_program"
SHORT_FORMS, SHORT_RUNS = "bitgolf.export.short_forms", "bitgolf.export.short_runs"
OPENMP = ("bitgolf.runtime.openmp", "limit_spinning")
TOKENIZERS = {"sentencepiece": "open_sentencepiece", "caseops": "open_caseops", "bytes": "open_bytes"}
"""Kind of a tokenizer -> the short form that opens its file. A script for another kind opens any file."""


class Script(NamedTuple):
    """The script of a recipe. readable, packed: its two forms."""

    readable: str
    packed: str

    @property
    def bytes(self) -> int:
        """Size of the packed form, which is what counts as code."""
        return len(self.packed.encode())

    @property
    def packages(self) -> list[str]:
        """Names of the packages, other than Python's own, that it imports."""
        return packages(self.readable)


def reached_by(recipe: Any, tokenizer: str) -> Reached:
    """Return the code that a recipe reaches: its parts, and the program that runs it.

    tokenizer: its kind.
    """
    replaced = short_forms(SHORT_FORMS) | short_forms(SHORT_RUNS)
    if tokenizer in TOKENIZERS:
        replaced["bitgolf.tokens.loading", "tokenizer_from_bytes"] = (SHORT_FORMS, TOKENIZERS[tokenizer])
    if recipe.get("calibrate") is None:
        replaced |= dict.fromkeys(CALIBRATION, (SHORT_RUNS, "no_calibration"))
    roots = [(PROGRAM, "main"), OPENMP]
    if not any(part.get("variance_contexts") for part in parts_in(recipe)):
        reached = reached_from(roots, recipe, replaced | dict.fromkeys(CONTEXTS, (SHORT_RUNS, "no_contexts")))
        if not any(map(_codes_in_contexts, reached.classes())):
            return reached
    return reached_from(roots, recipe, replaced)


def short_forms(module: str) -> dict[Symbol, Symbol]:
    """Return the functions and classes that a module of short forms replaces, each with its short form."""
    return {
        (_replaced_module(node), node.name): (module, node.name)
        for node in module_tree(module).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.decorator_list
    }


def reached_from(roots: Sequence[Symbol], recipe: Any, replaced: Mapping[Symbol, Symbol]) -> Reached:
    """Return the code that is reached from (module, name) of some roots, and from the parts of a recipe.

    A part that the recipe does not name has no objects unless the code builds one or derives a class from it. So it is
    first taken to be absent; a part that is reached nevertheless is not, and all is followed again. The same holds for
    default values of arguments.
    """
    modules, parts = part_modules(), part_names(recipe)
    absent, unused = set(modules) - parts, _unused_defaults(recipe, modules)
    while True:
        reached = Reached(replaced, absent, unused)
        reached.follow([*roots, *((modules[name], name) for name in parts)])
        built = {name for name in absent if reached.has(modules[name], name)}
        used = {default for node in reached.nodes() for default in used_defaults(node, unused)}
        if not built and not used:
            return reached
        absent -= built
        unused -= used


def _codes_in_contexts(node: ast.ClassDef) -> bool:
    """Return whether a codec codes some of its arrays with contexts."""
    own = [member for member in node.body if isinstance(member, FunctionNode) and member.name == "context_coded"]
    return any(ast.unparse(member.body[-1]) != "return ()" for member in own)


def _unused_defaults(recipe: Any, modules: dict[str, str]) -> set[Default]:
    """Return the default values of parts that no part of a recipe uses: each states the argument, its base gets it."""
    named = part_names(recipe)
    classes = {
        name: node
        for name, module in modules.items()
        if name in named or "part(" in module_text(module)  # the others have no such default value
        for node in module_tree(module).body
        if isinstance(node, ast.ClassDef) and node.name == name
    }
    found = {(name, argument) for name, node in classes.items() for argument in part_defaults(node)}
    unstated = {(part["part"], argument) for part in parts_in(recipe) for _, argument in found if argument not in part}
    by_heirs = (used_defaults(classes[name], found) for name in named if name in classes)
    return found - unstated.union(*by_heirs)


def _replaced_module(node: ast.FunctionDef | ast.ClassDef) -> str:
    """Return the module whose function a short form replaces: the argument of its decorator."""
    decorator = node.decorator_list[0]
    assert isinstance(decorator, ast.Call) and isinstance(decorator.args[0], ast.Constant)
    return str(decorator.args[0].value)


def module_body(reached: Reached, source: ModuleSource) -> list[ast.stmt]:
    """Return the statements of what is reached in a module, with the imports that it uses."""
    used = reached.names[source.name]
    body = list[ast.stmt]()
    for index, statement in enumerate(source.statements):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            names = [alias for alias in statement.names if (alias.asname or alias.name.split(".")[0]) in used]
            if names:
                kept = copy.copy(statement)
                kept.names = names
                body.append(kept)
        elif index in reached.statements[source.name]:
            body.append(_without_unreached(reached, statement))
    return [copied(statement) for statement in body]


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


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in the JSON form of a recipe, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _texts(item)


def parts_in(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the parts in the JSON form of a recipe."""
    if isinstance(value, dict):
        if "part" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from parts_in(item)


def _parts_by_name(recipe: Any) -> dict[str, list[dict[str, Any]]]:
    found = defaultdict[str, list[dict[str, Any]]](list)
    for part in parts_in(recipe):
        found[part["part"]].append(part)
    return found


def part_names(recipe: Any) -> set[str]:
    """Return the names of the parts in the JSON form of a recipe."""
    return {part["part"] for part in parts_in(recipe)}


def make_script(recipe: Any, tokenizer: str) -> Script:
    """Return the script of a recipe in its JSON form; see `recipe_script`."""
    with _garbage_collection_paused():
        return _make_script(recipe, tokenizer)


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Collections would take a quarter of the time: there are a million nodes of trees, all in use."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _make_script(recipe: Any, tokenizer: str) -> Script:
    order = [OPENMP[0], SHORT_FORMS, SHORT_RUNS, PROGRAM]
    found = merged(reached_by(recipe, tokenizer), [OPENMP, (PROGRAM, "main")], recipe, order)
    readable = _assemble(recipe, found)
    return Script(readable, self_extracting(minified(readable)))


def merged(reached: Reached, roots: Sequence[Symbol], recipe: Any, order: Sequence[str]) -> MergedModules:
    """Return what is reached in one namespace, without what is superfluous there.

    roots: (module, name) that are kept. order: modules that are imported first.
    """
    bodies = {name: module_body(reached, reached.source(name)) for name in sorted(reached.modules)}
    parts = sorted({part_modules()[part] for part in part_names(recipe)})
    found = bundle(bodies, [*order, *parts], reached.replaced)
    kept = [found.names[symbol] for symbol in roots]
    modules = pruned(found.modules, kept, _texts(recipe), _parts_by_name(recipe))
    optional = {name: mentioned_imports(own, modules) for name, own in found.optional.items() if name in modules}
    return found._replace(modules=modules, imports=mentioned_imports(found.imports, modules), optional=optional)


def _assemble(recipe: Any, found: MergedModules) -> str:
    """Return the source of a script."""
    first = f"{found.names[OPENMP]}()  # before torch is imported"
    text = ["import os", source_text(found.modules[OPENMP[0]]), first, source_text(found.imports)]
    text += module_texts(found, without=OPENMP[0])
    text.append(f"\nRECIPE = {recipe!r}\nif __name__ == '__main__':\n    {found.names[PROGRAM, 'main']}(RECIPE)\n")
    return "\n".join(text)


def module_texts(found: MergedModules, without: str = "") -> Iterator[str]:
    """Yield the source of each module after a heading. without: a module that is left out."""
    for name, body in found.modules.items():
        if body and name != without:
            yield f"\n# ---- {name} {'-' * (90 - len(name))}"
            yield source_text([_try(found.optional[name], body)] if name in found.optional else body)


def _try(imports: list[ast.stmt], body: list[ast.stmt]) -> ast.stmt:
    """Return what is executed only if its imports succeed."""
    return ast.Try([*imports, *body], [ast.ExceptHandler(ast.Name("ImportError"), None, [ast.Pass()])], [], [])


def source_text(body: list[ast.stmt]) -> str:
    """Return the source of statements."""
    return ast.unparse(ast.fix_missing_locations(ast.Module(body, [])))


def packages(source: str) -> list[str]:
    """Return the names of the packages, other than Python's own, that a script imports: by statements, or by name."""
    found = set[str]()
    for node in walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Constant) and node.value == "zstandard":
            found.add("zstandard")
    return sorted(found - set(sys.stdlib_module_names))
