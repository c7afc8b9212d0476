"""Removal of what a whole script does not need: statements without effect, and what nothing mentions.

One round makes more superfluous, so rounds follow until nothing changes. Attributes are found by name: one that is read
anywhere, or whose name is a text, is read.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from bitgolf.export.effects import FOREIGN_NAMES, Effects
from bitgolf.export.known_names import SILENT_DECORATORS
from bitgolf.export.merge import drop_annotations, drop_arguments, join_classes
from bitgolf.export.scopes import FunctionNode
from bitgolf.export.simplify import last_name

KNOWN_BASES = frozenset(["object", "NamedTuple", "Exception", "Protocol"])
"""Bases of other packages that read no attribute of their own accord."""


def pruned(
    bodies: Mapping[str, list[ast.stmt]], roots: Iterable[str], texts: Iterable[str]
) -> dict[str, list[ast.stmt]]:
    """Return the statements of modules in one namespace without what is superfluous. Their trees are changed.

    roots: names that are mentioned elsewhere. texts: of the recipe, which name registered classes.
    """
    found, roots, texts = dict(bodies), set(roots), set(texts)
    while True:
        tree = ast.Module([statement for body in found.values() for statement in body], [])
        remover = _Remover(tree, roots, texts)
        found = {name: remover.body(body, empty=True) for name, body in found.items()}
        tree = ast.Module([statement for body in found.values() for statement in body], [])
        removed = [remover.removed, drop_arguments(tree, roots), join_classes(tree, texts), drop_annotations(tree)]
        if not any(removed):
            return found


def mentioned_imports(imports: Iterable[ast.stmt], modules: Mapping[str, list[ast.stmt]]) -> list[ast.stmt]:
    """Return imports without what nothing mentions."""
    used = {name for body in modules.values() for statement in body for name in _mentions(statement)}
    found = list[ast.stmt]()
    for statement in imports:
        assert isinstance(statement, ast.Import | ast.ImportFrom)
        statement.names = [name for name in statement.names if (name.asname or name.name) in used]
        found += [statement] if statement.names else []
    return found


class _Remover(ast.NodeTransformer):
    """One round. removed: whether anything was.

    unread: the variables of the function around that nothing reads. is_top: whether no function or class is around.
    kept_attributes: whether the class around is derived from one that may read its attributes.
    """

    def __init__(self, tree: ast.Module, roots: set[str], texts: set[str]) -> None:
        self.effects, self.removed = Effects(tree), False
        self.mentioned = Counter(_mentions(tree))
        self.read = set(_read_attributes(tree)) | texts
        self.roots, self.texts = roots, texts
        self.foreign = _with_foreign_bases(tree)
        self.unread = set[str]()
        self.is_top, self.kept_attributes = True, False

    def body(self, statements: Iterable[ast.stmt], *, empty: bool = False) -> list[ast.stmt]:
        found = list[ast.stmt]()
        for statement in statements:
            made = self.visit(statement)
            made = made if isinstance(made, list) else [made] if made else []
            self.removed |= made != [statement]
            found += made
        rest = [s for s in found if not isinstance(s, ast.Pass)]
        return rest or ([] if empty else [ast.Pass()])

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                setattr(node, field, self.body(statements, empty=field != "body") if statements else [])
        for name, value in ast.iter_fields(node):
            if name not in ("body", "orelse", "finalbody") or not isinstance(value, list):
                self._visit_field(node, name, value)
        return node

    def _visit_field(self, node: ast.AST, name: str, value: object) -> None:
        if isinstance(value, ast.AST):
            setattr(node, name, self.visit(value))
        elif isinstance(value, list):
            value[:] = [self.visit(inner) if isinstance(inner, ast.AST) else inner for inner in value]

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """A call of a function that returns its argument is that argument."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and id(node.func) in self.effects.variables:
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
            names = {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}
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
        return self.mentioned[name] <= sum(found == name for found in _mentions(node))


def _mentions(tree: ast.AST) -> Iterator[str]:
    return (node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store))


def _read_attributes(tree: ast.AST) -> Iterator[str]:
    """Yield the names of attributes that are read, or that a text or a keyword names."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name, ctx=ast.Load()):
                yield name
            case ast.AugAssign(target=ast.Attribute(attr=name)):
                yield name
            case ast.Constant(value=str(text)):
                yield text
            case ast.keyword(arg=str(name)):
                yield name
            case ast.ClassDef(body=body):  # names that the body of the class itself reads
                yield from (n for s in body if not isinstance(s, FunctionNode) for n in _mentions(s))
            case _:
                pass


def _with_foreign_bases(tree: ast.Module) -> dict[str, set[str]]:
    """Return the classes that are derived from classes of other packages -> the last parts of the names of these."""
    own = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
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
    stored = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    shared = {name for n in ast.walk(node) if isinstance(n, ast.Nonlocal | ast.Global) for name in n.names}
    return stored - set(_mentions(node)) - shared


def _is_empty(body: Iterable[ast.stmt]) -> bool:
    return all(isinstance(statement, ast.Pass) for statement in body)
