"""Shorter forms of Python source with the same meaning: no spaces that separate nothing, short names of variables."""

from __future__ import annotations

import ast
import io
import token
import tokenize

from bitgolf.export.short_names import shorten_variables


def minified(source: str) -> str:
    """Return source with the same meaning, in which variables have short names and spaces are left out."""
    tree = ast.parse(source)
    shorten_variables(tree)
    return _without_spaces(ast.unparse(tree))


def _without_spaces(source: str) -> str:
    """Return source with one space of indentation for each level, and none between tokens that do not need one."""
    lines, out = source.splitlines(), list[str]()
    depth, fresh, inside, last = 0, True, 0, (1, 0)
    for kind, text, start, end, _ in tokenize.generate_tokens(io.StringIO(source).readline):
        name = token.tok_name[kind]
        if kind == token.INDENT:
            depth += 1
        elif kind == token.DEDENT:
            depth -= 1
        elif kind in (token.NEWLINE, token.NL):
            if not fresh:
                out.append("\n")
            fresh = True
        elif kind != token.ENDMARKER:
            if fresh:
                out.append(" " * depth)
            elif inside:
                out.append(lines[start[0] - 1][last[1] : start[1]] if start[0] == last[0] else "")
            elif _needs_space(out[-1], text) and start != last:
                out.append(" ")
            out.append(lines[start[0] - 1][start[1] : end[1]] if start[0] == end[0] else text)
            fresh = False
            inside += (name == "FSTRING_START") - (name == "FSTRING_END")
            last = end
    return "".join(out)


def _needs_space(before: str, after: str) -> bool:
    """Return whether two tokens would be read as one, or as a number with a suffix, without a space."""
    a, b = before[-1:], after[:1]
    if before[:1].isdigit() and (b.isalpha() or b == "."):
        return True
    if b in ("'", '"'):
        return before in STRING_PREFIXES
    return (a.isalnum() or a == "_") and (b.isalnum() or b == "_")


STRING_PREFIXES = frozenset(["r", "b", "f", "u", "rb", "br", "fr", "rf"])
