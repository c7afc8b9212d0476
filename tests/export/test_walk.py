"""Walks over syntax trees and copies of them, beside those of Python."""

from __future__ import annotations

import ast
import copy

import pytest

from bitgolf.export.class_bases import module_files, module_tree
from bitgolf.export.walk import Transformer, children, copied, walk

MODULES = sorted(module_files())[::25]
LEFT_OUT = ast.expr_context | ast.operator | ast.boolop | ast.unaryop | ast.cmpop


@pytest.mark.parametrize("name", MODULES)
def test_a_walk_finds_what_pythons_own_finds(name: str) -> None:
    tree = module_tree(name)
    assert walk(tree) == [node for node in ast.walk(tree) if not isinstance(node, LEFT_OUT)]
    for node in walk(tree):
        assert children(node) == [inner for inner in ast.iter_child_nodes(node) if not isinstance(inner, LEFT_OUT)]


@pytest.mark.parametrize("name", MODULES)
def test_a_copy_is_equal_and_shares_no_node(name: str) -> None:
    tree = module_tree(name)
    made = copied(tree)
    assert ast.dump(made, include_attributes=True) == ast.dump(copy.deepcopy(tree), include_attributes=True)
    assert not set(walk(made)) & set(walk(tree))


class Doubler(Transformer):
    """Removes `pass`, doubles `break`, and turns the name `a` into `b`."""

    def visit_Pass(self, node: ast.Pass) -> None:
        return None

    def visit_Break(self, node: ast.Break) -> list[ast.stmt]:
        return [node, ast.Continue()]

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name("b", node.ctx) if node.id == "a" else node


def test_a_transformer_replaces_nodes_and_keeps_missing_ones() -> None:
    tree = ast.parse("while a:\n    pass\n    break\nx = {**a, 1: a}\ndef f(*, y, z=a): return y[a]")
    made = ast.unparse(ast.fix_missing_locations(Doubler().visit(tree)))
    assert made == "while b:\n    break\n    continue\nx = {**b, 1: b}\n\ndef f(*, y, z=b):\n    return y[b]"
