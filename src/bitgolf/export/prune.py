"""Removal of what a whole script does not need: statements without effect, and what nothing mentions.

One round makes more superfluous, so rounds follow until nothing changes. Attributes are found by name: one that is read
anywhere, or whose name is a text, is read.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from bitgolf.export.constant_arguments import Parts
from bitgolf.export.effects import FOREIGN_NAMES, Effects
from bitgolf.export.known_names import SILENT_DECORATORS
from bitgolf.export.merge import drop_annotations, drop_arguments, join_classes
from bitgolf.export.propagate import Propagator
from bitgolf.export.scopes import FunctionNode
from bitgolf.export.script_tree import ScriptTree, loaded_names
from bitgolf.export.simplify import last_name
from bitgolf.export.walk import INNER_FIELDS, Transformer, walk

KNOWN_BASES = frozenset(["object", "NamedTuple", "Exception", "Protocol"])
"""Bases of other packages that read no attribute of their own accord."""


def pruned(
    bodies: Mapping[str, list[ast.stmt]], roots: Iterable[str], texts: Iterable[str], parts: Parts | None = None
) -> dict[str, list[ast.stmt]]:
    """Return the statements of modules in one namespace without what is superfluous. Their trees are changed.

    roots: names that are mentioned elsewhere. texts: of the recipe, which name registered classes. parts: of the recipe,
    which fix arguments of these; None if they are not known.
    """
    program, roots, texts = ScriptTree(bodies), set(roots), set(texts)
    propagator = Propagator(program, roots, parts or {}, texts)
    while True:
        removed = [
            _Remover(program, roots, texts).remove(),
            drop_arguments(program, roots),
            join_classes(program, texts),
            drop_annotations(program),
            parts is not None and propagator.propagate(),
        ]
        if not any(removed):
            return program.modules


def mentioned_imports(imports: Iterable[ast.stmt], modules: Mapping[str, list[ast.stmt]]) -> list[ast.stmt]:
    """Return imports without what nothing mentions."""
    used = {name for body in modules.values() for statement in body for name in _mentions(statement)}
    found = list[ast.stmt]()
    for statement in imports:
        assert isinstance(statement, ast.Import | ast.ImportFrom)
        statement.names = [name for name in statement.names if (name.asname or name.name) in used]
        found += [statement] if statement.names else []
    return found


class _Remover(Transformer):
    """One round. removed: whether anything was.

    loads: how often the statement of the module mentions a name. unread: the variables of the function around that
    nothing reads. is_top: whether no function or class is around.
    kept_attributes: whether the class around is derived from one that may read its attributes.
    """

    def __init__(self, program: ScriptTree, roots: set[str], texts: set[str]) -> None:
        self.program, self.effects, self.removed = program, program.known(Effects), False
        self.mentioned, self.read = Counter[str](), set(texts)
        for facts in program.facts:
            self.mentioned.update(facts.loads)
            self.read |= facts.reads
        self.roots, self.texts = roots, texts
        self.foreign = _with_foreign_bases(program)
        self.unread = set[str]()
        self.loads = Counter[str]()
        self.is_top, self.kept_attributes, self.has_identities = True, False, False

    def remove(self) -> bool:
        """Change the program. Returns whether anything was removed."""
        any_removed = False
        for name, body in self.program.modules.items():
            found = list[ast.stmt]()
            for statement in body:
                self.removed, self.loads = False, self.program.facts_of(statement).loads
                self.has_identities = not self.effects.identity.keys().isdisjoint(self.loads)
                found += self.body([statement], empty=True)
                if self.removed:
                    self.program.changed(statement)
                    any_removed = True
            self.program.modules[name] = found
        return any_removed

    def body(self, statements: Iterable[ast.stmt], *, empty: bool = False) -> list[ast.stmt]:
        found = list[ast.stmt]()
        for statement in statements:
            made = self.visit(statement)
            made = made if isinstance(made, list) else [made] if made else []
            self.removed |= made != [statement]
            found += made
        rest = [s for s in found if not isinstance(s, ast.Pass)]
        return rest or ([] if empty else [ast.Pass()])

    def visit(self, node: ast.AST) -> Any:
        """Expressions are visited only where a function that returns its argument may be called."""
        return node if isinstance(node, ast.expr) and not self.has_identities else super().visit(node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for field in INNER_FIELDS[node.__class__]:
            value = getattr(node, field)
            if isinstance(value, list) and field in ("body", "orelse", "finalbody"):
                setattr(node, field, self.body(value, empty=field != "body") if value else [])
            elif isinstance(value, list):
                value[:] = [self.visit(inner) if isinstance(inner, ast.AST) else inner for inner in value]
            elif isinstance(value, ast.AST):
                setattr(node, field, self.visit(value))
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """A call of a function that returns its argument is that argument."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func in self.effects.variables:
            at = self.effects.identity.get(node.func.id)
            others = [value for i, value in enumerate(node.args) if i != at]
            others += [keyword.value for keyword in node.keywords]
            if at is not None and at < len(node.args) and all(map(self.effects.is_pure, others)):
                self.removed = True
                return node.args[at]
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        self.generic_visit(node)
        return None if self.effects.is_pure(node.value) else node

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        self.generic_visit(node)
        if len(node.targets) > 1:
            node.targets = [target for target in node.targets if not self._is_unread(target)] or node.targets[:1]
        target, value = node.targets[0], node.value
        if len(node.targets) > 1:
            return node
        if self.is_top and isinstance(target, ast.Name | ast.Tuple):
            names = {n.id for n in walk(target) if isinstance(n, ast.Name)}
            unused = not any(self.mentioned[name] or name in self.roots for name in names)
            return None if unused and self.effects.is_pure(value) else node
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            return self._without_unread(node, target, value)
        return None if self._is_unread(target) and self.effects.is_pure(value) else node

    def _without_unread(self, node: ast.Assign, target: ast.Tuple, value: ast.Tuple) -> ast.AST | None:
        pairs = list(zip(target.elts, value.elts, strict=True))
        kept = [(t, v) for t, v in pairs if not (self._is_unread(t) and self.effects.is_pure(v))]
        self.removed |= len(kept) < len(pairs)
        if not kept:
            return None
        target.elts, value.elts = [t for t, _ in kept], [v for _, v in kept]
        if len(kept) == 1:
            node.targets, node.value = [target.elts[0]], value.elts[0]
        return node

    def _is_unread(self, target: ast.expr) -> bool:
        if isinstance(target, ast.Tuple):
            return all(map(self._is_unread, target.elts))
        if isinstance(target, ast.Name):
            return target.id in self.unread
        return (
            isinstance(target, ast.Attribute)
            and isinstance(target.value, ast.Name)
            and target.value.id == "self"
            and self._drops_attribute(target.attr)
        )

    def _drops_attribute(self, name: str) -> bool:
        return not (self.kept_attributes or name in self.read or name in FOREIGN_NAMES or name.startswith("__"))

    def visit_For(self, node: ast.For) -> ast.AST | None:
        self.generic_visit(node)
        return None if _is_empty(node.body) and not node.orelse and self.effects.is_pure(node.iter) else node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        self.generic_visit(node)
        return None if _is_empty([*node.body, *node.orelse]) and self.effects.is_pure(node.test) else node

    def visit_With(self, node: ast.With) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        node.items = [item for item in node.items if not self._is_transparent(item)]
        return node if node.items else node.body

    def _is_transparent(self, item: ast.withitem) -> bool:
        call = item.context_expr
        found = (
            isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in self.effects.transparent
        )
        return found and not item.optional_vars and all(map(self.effects.is_pure, call.args))  # pyright: ignore

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        if self._is_unmentioned(node, node.name):
            return None
        outer = self.unread, self.is_top
        self.unread = self.unread or _unread_variables(node)
        self.is_top = False
        self.generic_visit(node)
        self.unread, self.is_top = outer
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST | None:
        if self._is_unmentioned(node, node.name):
            return None
        if not self.is_top:
            return node
        self.kept_attributes, self.is_top = node.name in self.foreign, False
        members = [s for s in node.body if not self._is_unread_member(node, s)]
        self.removed |= len(members) < len(node.body)
        node.body = self.body(members)
        self.kept_attributes, self.is_top = False, True
        return node

    def _is_unread_member(self, owner: ast.ClassDef, member: ast.stmt) -> bool:
        if isinstance(member, FunctionNode):
            name = member.name
            if owner.name in self.foreign and not all(b in ("Part", "Module") for b in self.foreign[owner.name]):
                return False
            return not (name in self.read or name in FOREIGN_NAMES or name.startswith("__"))
        if isinstance(member, ast.Assign) and all(isinstance(target, ast.Name) for target in member.targets):
            names = [target.id for target in member.targets if isinstance(target, ast.Name)]
            return all(map(self._drops_attribute, names)) and self.effects.is_pure(member.value)
        return False

    def _is_unmentioned(self, node: ast.FunctionDef | ast.ClassDef, name: str) -> bool:
        """Return whether nothing mentions a function or class of the module, apart from itself."""
        decorators = {last_name(decorator) for decorator in node.decorator_list}
        if not self.is_top or name in self.roots or not decorators <= SILENT_DECORATORS | {"dataclass"}:
            return False
        if "register" in decorators and name in self.texts:
            return False
        if self.mentioned[name] > self.loads[name]:
            return False
        return not self.mentioned[name] or self.mentioned[name] <= _mentions(node).count(name)


def _mentions(tree: ast.AST) -> list[str]:
    return [node.id for node in loaded_names(walk(tree))]


def _with_foreign_bases(program: ScriptTree) -> dict[str, set[str]]:
    """Return the classes that are derived from classes of other packages -> the last parts of the names of these."""
    own = {node.name: node for node in program.statements if isinstance(node, ast.ClassDef)}
    found = dict[str, set[str]]()
    for name in own:
        pending, bases = [name], set[str]()
        while pending:
            for base in own[pending.pop()].bases:
                last = last_name(base.value if isinstance(base, ast.Subscript) else base)
                (pending.append if last in own else bases.add)(last)
        if bases - KNOWN_BASES:
            found[name] = bases - KNOWN_BASES
    return found


def _unread_variables(node: ast.FunctionDef) -> set[str]:
    """Return the variables of a function, and of those in it, that are only assigned."""
    stored, others = set[str](), set[str]()
    for inner in walk(node):
        if isinstance(inner, ast.Name):
            (stored if isinstance(inner.ctx, ast.Store) else others).add(inner.id)
        elif isinstance(inner, ast.Nonlocal | ast.Global):
            others.update(inner.names)
    return stored - others


def _is_empty(body: Iterable[ast.stmt]) -> bool:
    return all(isinstance(statement, ast.Pass) for statement in body)
