"""What a recipe says about packing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bitgolf.config.registry import register
from bitgolf.config.rules import Rule, assign_to_rules
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.pack.byte_coders import Brotli
from bitgolf.pack.coders import Coder


@register
class StreamGroup:
    """Arrays of the parameters `where` (as in rules) are coded together, under this `name`, apart from their role's."""

    def __init__(self, *, where: str, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):  # sections are named by group, dot, array
            raise RecipeError(f"the group {name!r} is not named in letters, digits, - and _", where="pack.groups")
        self.where, self.name = where, name


@register
class Pack:
    """`cap`: the most bytes that may ship, decimal. `coder`: the lossless coder of every stream.

    `groups`: what is coded together, the first that matches; parameters of none are grouped by their role.
    """

    def __init__(
        self, *, coder: Spec[Coder], cap: int = 16_000_000, groups: tuple[Spec[StreamGroup], ...] = ()
    ) -> None:
        if cap < 1:
            raise RecipeError(f"a cap of {cap} bytes is not one", where="pack.cap")
        self.coder, self.cap, self.groups = coder, cap, groups

    def groups_by_path(self, roles: Mapping[str, str]) -> dict[str, str]:
        """path -> group, from path -> role. A group without parameters is a `RecipeError`, as a dead rule is."""
        rules: list[Spec[Rule[Any]]] = [part(Rule, where=group().where, use=group) for group in self.groups]
        matches = [rule().matches for rule in rules]
        if not all(any(match(role, path) for match in matches) for path, role in roles.items()):
            rules.append(part(Rule, where="*", use=self.coder))  # takes the others, and leaves them as they are
        found = dict(roles)
        for group, paths in zip(self.groups, assign_to_rules(rules, roles, where="pack.groups"), strict=False):
            found.update(dict.fromkeys(paths, group().name))
        return found


def check_coders(pack: Spec[Pack]) -> None:
    """Try every coder that packing may need, before hours are spent on what could not be packed then.

    Raises `BitgolfError` with the coder's place in the recipe, what is missing and how to get it.
    """
    coders = [(f"pack.{at}", node) for at, node in pack.walk()]
    for place, node in [("the container", part(Brotli)), *reversed(coders)]:  # the innermost first: it is the cause
        if not (isinstance(node.cls, type) and issubclass(node.cls, Coder)):
            continue
        try:
            node().self_test()
        except BitgolfError as error:
            raise BitgolfError(
                f"{node.cls.__name__} cannot be used here: {error.message}", where=place, hint=error.hint
            ) from error
