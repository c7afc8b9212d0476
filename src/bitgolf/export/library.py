"""A part of the package as one module that other programs import: some names, and the code that they reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from bitgolf.export.bundle import Symbol
from bitgolf.export.script import SHORT_FORMS, merged, module_texts, reached_from, short_forms, source_text


def library_source(
    roots: Sequence[Symbol], recipe: Any, replaced: Mapping[Symbol, Symbol] | None = None, *, heading: str
) -> str:
    """Return the source of a module that defines the roots, (module, name) each, under their own names.

    recipe: JSON form of the parts that it builds; {} for none. replaced: (module, name) -> (module, name) of what is
    used instead, besides the short forms. heading: the first lines, as a comment. Operators of torch get a namespace of
    their own: a process may have the package, too, or several such modules, and a second operator of a name replaces
    the first.
    """
    own = dict(replaced or {})
    reached = reached_from(roots, recipe, short_forms(SHORT_FORMS) | own)
    order = [SHORT_FORMS, *(module for module, _ in [*own.values(), *roots])]
    found = merged(reached, roots, recipe, order)
    comment = [f"# {line}".rstrip() for line in heading.splitlines()]
    text = "\n".join([*comment, source_text(found.imports), *module_texts(found), ""])
    return text.replace("'bitgolf::", f"'bitgolf_{sha256(text.encode()).hexdigest()[:8]}::")
