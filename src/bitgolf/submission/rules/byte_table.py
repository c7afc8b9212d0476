"""Rules on tables of bytes per token: the published forms of a wrong count."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TypeGuard

from bitgolf.submission.finding import Found, Record, RecordRule
from bitgolf.submission.source import FunctionNode, Source, dotted

SPACE = "▁"
PIECE_CALLS, BYTE_CALLS = ("id_to_piece", "IdToPiece"), ("is_byte", "IsByte")


def space_counted_twice(record: Record) -> Found:
    """The table counts a piece with its leading space, and the space is added again by a flag."""
    for script, function in _table_functions(record):
        nodes = script.inside(function)
        replaced = next((node for node in nodes if _replaces_space(node)), None)
        if (
            replaced
            and _is_encoded(script, replaced, nodes)
            and not _strips_space(nodes)
            and (flag := _space_flag(nodes))
        ):
            evidence = (
                f"{function.name} counts a piece with its space (the marker is replaced by a space and encoded), and "
                f"marks it in {flag} too, so the space is counted twice."
            )
            yield script.name, replaced.lineno, evidence


def space_marker_counted(record: Record) -> Found:
    """The table encodes pieces as they are, so the marker of a space counts three bytes."""
    for script, function in _table_functions(record):
        nodes = script.inside(function)
        numbers = {node.value for node in nodes if isinstance(node, ast.Constant)}
        if not any(SPACE in text for text in _texts(nodes)) and ord(SPACE) not in numbers:
            line = _encoding_line(nodes)
            yield (
                script.name,
                line,
                f"{function.name} encodes pieces with their marker {SPACE}, three bytes for a space.",
            )


def byte_piece_length(record: Record) -> Found:
    """The table has no case for byte pieces such as <0x0A>, whose name is longer than the byte."""
    for script, function in _table_functions(record):
        nodes = script.inside(function)
        called = {dotted(node.func).split(".")[-1] for node in nodes if isinstance(node, ast.Call)}
        if not called & set(BYTE_CALLS) and not any("<0x" in text.lower() for text in _texts(nodes)):
            line = _encoding_line(nodes)
            yield (
                script.name,
                line,
                f"{function.name} counts a byte piece such as <0x0A> by its name, six bytes for one.",
            )


def _table_functions(record: Record) -> Iterator[tuple[Source, FunctionNode]]:
    """Yield the functions that encode the pieces of a tokenizer, with their scripts: they make a table of bytes."""
    for script in record.folder.code:
        for function in script.functions if any(name in script.text for name in PIECE_CALLS) else ():
            nodes = script.inside(function)
            pieces = any(isinstance(node, ast.Attribute) and node.attr in PIECE_CALLS for node in nodes)
            if pieces and not any(isinstance(node, FunctionNode) for node in nodes[1:]):
                names = {node.id for node in nodes if isinstance(node, ast.Name)} | {function.name}
                if any(map(_is_encoding, nodes)) and any("byte" in name.lower() for name in names):
                    yield script, function


def _is_encoding(node: ast.AST) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "encode"


def _encoding_line(nodes: list[ast.AST]) -> int:
    return next(node.lineno for node in nodes if _is_encoding(node))


def _texts(nodes: list[ast.AST]) -> list[str]:
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def _replaces_space(node: ast.AST) -> TypeGuard[ast.Call]:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "replace"):
        return False
    return [argument.value for argument in node.args if isinstance(argument, ast.Constant)] == [SPACE, " "]


def _is_encoded(script: Source, replaced: ast.Call, nodes: list[ast.AST]) -> bool:
    """Whether the result of a replacement is encoded at once, or through the name that it is assigned to."""
    encodings = [node for node in nodes if _is_encoding(node)]
    if any(replaced in script.inside(encoding) for encoding in encodings):
        return True
    named = {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign) and replaced in script.inside(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    owners = [node.func.value for node in encodings if isinstance(node.func, ast.Attribute)]
    return any(isinstance(owner, ast.Name) and owner.id in named for owner in owners)


def _strips_space(nodes: list[ast.AST]) -> bool:
    """Whether a first character is cut off, so that what is replaced afterwards are spaces inside a piece."""
    cuts = (n.slice for n in nodes if isinstance(n, ast.Subscript) and isinstance(n.slice, ast.Slice))
    stripped = any(isinstance(n, ast.Attribute) and n.attr in ("lstrip", "removeprefix") for n in nodes)
    return stripped or any(isinstance(cut.lower, ast.Constant) and cut.lower.value == 1 for cut in cuts)


def _space_flag(nodes: list[ast.AST]) -> str:
    """Return the name of the table of leading spaces that is filled, "" if there is none."""
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and node.value.value in (True, 1):
            for target in node.targets:
                name = dotted(target.value) if isinstance(target, ast.Subscript) else ""
                if "space" in name.lower():
                    return name
    return ""


RULES = (
    RecordRule("space-counted-twice", "warning", space_counted_twice),
    RecordRule("space-marker-counted", "warning", space_marker_counted),
    RecordRule("byte-piece-length", "warning", byte_piece_length),
)
