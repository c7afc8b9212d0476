"""Constants in place of what always has the same value, and without the branches that they decide."""

from __future__ import annotations

import ast
import operator
from collections.abc import Collection
from typing import Any

from bitgolf.export.constant_arguments import Parts, constant_arguments, constant_variables
from bitgolf.export.constant_attributes import constant_attributes
from bitgolf.export.effects import Effects
from bitgolf.export.fold import Folder
from bitgolf.export.literals import Unknown, literal
from bitgolf.export.script_tree import Facts, ScriptTree, module_variables
from bitgolf.export.walk import copied

ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
COMPARISONS = {
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


class Propagator(Folder):
    """Writes literals for arguments, attributes and calls that always have that value. `pruned` explains its arguments.

    changed: whether anything of the statement was replaced.
    """

    def __init__(self, program: ScriptTree, roots: Collection[str], parts: Parts, texts: Collection[str]) -> None:
        super().__init__(())
        self.program, self.roots, self.parts, self.texts = program, roots, parts, texts
        self.changed, self._folded = False, set[Facts]()

    def propagate(self) -> bool:
        """Do one round over the program, which is changed. Returns whether anything was."""
        self._find()
        any_changed = False
        for name, body in self.program.modules.items():
            found = list[ast.stmt]()
            for statement in body:
                facts = self.program.facts_of(statement)
                if facts in self._folded and not self._concerns(facts):
                    found.append(statement)
                    continue
                self.changed = False
                made = self.visit(statement)
                found += made if isinstance(made, list) else [made]
                if self.changed:
                    self.program.changed(statement)
                    any_changed = True
                else:
                    self._folded.add(facts)
            self.program.modules[name] = found
        return any_changed

    def _find(self) -> None:
        """Find what is constant now."""
        program = self.program
        self.effects = program.known(Effects)
        self.variables = constant_arguments(program, self.roots, self.parts)
        for facts in program.facts:
            self.variables |= facts.known(constant_variables)
        self.attributes = constant_attributes(program, self.texts)
        self.results = {
            node.name: value
            for node in program.statements
            if isinstance(node, ast.FunctionDef) and not node.decorator_list and (value := _result(node))
        }
        self.foreign = {name for facts in program.facts for name in facts.free} - program.known(module_variables)

    def _concerns(self, facts: Facts) -> bool:
        """Return whether a statement reads something constant."""
        return (
            not facts.reads.isdisjoint(self.attributes)
            or not facts.loads.keys().isdisjoint(self.results)
            or any(name in self.variables for name in facts.names)
        )

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._literal(self.variables[node]) if node in self.variables else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Load) and node.attr in self.attributes and self._is_own(node.value):
            return self._literal(self.attributes[node.attr])
        return node

    def _is_own(self, owner: ast.expr) -> bool:
        """Return whether an expression without effects is not a module or what one provides."""
        first = owner
        while isinstance(first, ast.Attribute):
            first = first.value
        return first not in self.foreign and self.effects.is_pure(owner)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        super().visit_Call(node)
        if isinstance(node.func, ast.Name) and node.func.id in self.results and node.func in self.effects.variables:
            passed = [*node.args, *(keyword.value for keyword in node.keywords)]
            return self._literal(self.results[node.func.id]) if all(map(self.effects.is_pure, passed)) else node
        return node

    def _literal(self, value: ast.expr) -> ast.AST:
        self.changed = True
        return copied(value)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        left, compare = literal(node.left), COMPARISONS.get(type(node.ops[0]))
        right = literal(node.comparators[0]) if len(node.ops) == 1 else Unknown()
        if isinstance(left, ast.Constant) and isinstance(right, ast.Constant) and compare:
            try:
                return self._literal(ast.Constant(compare(left.value, right.value)))
            except TypeError:
                return node
        return node

    def _body(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        found = super()._body(statements)
        self.changed |= found != statements
        return found

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        known = truth(node.operand)
        return self._literal(ast.Constant(not known)) if isinstance(node.op, ast.Not) and known is not None else node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        decides, kept = isinstance(node.op, ast.Or), list[ast.expr]()
        for value in node.values:
            known = truth(value)
            if known is None or value is node.values[-1] or known is decides:
                kept.append(value)
            if known is decides:
                break
        self.changed |= len(kept) < len(node.values)
        node.values = kept
        return node if len(kept) > 1 else kept[0]

    def visit_If(self, node: ast.If) -> Any:
        node.test = self.visit(node.test)
        decided, before = self._decided(node.test), list[ast.stmt]()
        if isinstance(node.test, ast.NamedExpr) and (decided := truth(node.test.value)) is not None:
            before = [ast.copy_location(ast.Assign([node.test.target], node.test.value), node)]
        if decided is None:
            node.test = self._simpler(node.test)
            return super().visit_If(node)
        self.changed = True
        return before + self._body(node.body if decided else node.orelse) or [ast.copy_location(ast.Pass(), node)]

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        decided = self._decided(node.test)
        if decided is None:
            node.test = self._simpler(node.test)
            return node
        self.changed = True
        return node.body if decided else node.orelse

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        self.generic_visit(node)
        kept = [self._simpler(test) for test in node.ifs if self._decided(test) is not True]
        self.changed |= len(kept) < len(node.ifs)
        node.ifs = kept
        return node

    def visit_ListComp(self, node: ast.ListComp) -> ast.AST:
        return self._without_items(node, ast.List([], ast.Load()))

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        return self._without_items(node, ast.Dict([], []))

    def _without_items(self, node: ast.ListComp | ast.DictComp, empty: ast.expr) -> ast.AST:
        self.generic_visit(node)
        first = node.generators[0]
        has_none = truth(first.iter) is False or any(self._decided(test) is False for test in first.ifs)
        if has_none and self.effects.is_pure(first.iter):
            self.changed = True
            return empty
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        match node:
            case ast.BinOp(ast.Constant(value=int(a)), ast.Add() | ast.Sub() | ast.Mult(), ast.Constant(value=int(b))):
                return self._literal(_number(ARITHMETIC[type(node.op)](a, b)))
            case ast.BinOp(ast.Constant(value=2), ast.Pow(), ast.Constant(value=int(b))) if 0 <= b <= 32:
                return self._literal(_number(2**b))
            case _:
                return node

    def _simpler(self, test: ast.expr) -> ast.expr:
        """Return a test without operands that do not change whether it is true."""
        if not isinstance(test, ast.BoolOp):
            return test
        neutral = isinstance(test.op, ast.And)
        kept = [value for value in test.values if truth(value) is not neutral]
        self.changed |= len(kept) < len(test.values)
        test.values = kept
        return test if len(kept) > 1 else kept[0]

    def visit_For(self, node: ast.For) -> Any:
        self.generic_visit(node)
        if truth(node.iter) is False:
            self.changed = True
            return node.orelse or [ast.copy_location(ast.Pass(), node)]
        return node

    def _decided(self, test: ast.expr) -> bool | None:
        """Return whether a test is true, if that is known and evaluating it has no effect."""
        if isinstance(test, ast.BoolOp):
            decides, known = isinstance(test.op, ast.Or), [self._decided(value) for value in test.values]
            if decides in known and all(map(self.effects.is_pure, test.values[: known.index(decides)])):
                return decides
            return None
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            inner = self._decided(test.operand)
            return None if inner is None else not inner
        return truth(test)


def _number(value: int) -> ast.expr:
    return ast.Constant(value) if value >= 0 else ast.UnaryOp(ast.USub(), ast.Constant(-value))


def truth(value: ast.expr) -> bool | None:
    """Return whether a literal counts as true, or a loop over it runs; None for other expressions."""
    match value:
        case ast.Constant(value=known):
            return bool(known)
        case ast.Tuple(elts=[]) | ast.List(elts=[]) | ast.Dict(keys=[]):
            return False
        case ast.Call(func=ast.Name(id="zip" | "enumerate"), args=args) if any(truth(one) is False for one in args):
            return False
        case _:
            return None


def _result(node: ast.FunctionDef) -> ast.expr | None:
    """Return the literal that a function always returns."""
    match node.body:
        case [ast.Return(value=ast.expr() as value)]:
            found = literal(value)
            return None if isinstance(found, Unknown) else found
        case [ast.Pass()] | [ast.Return(value=None)]:
            return ast.Constant(None)
        case _:
            return None
