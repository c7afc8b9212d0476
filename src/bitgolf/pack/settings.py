"""Settings of a recipe for packing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bitgolf.config.ranges import ByteCount
from bitgolf.config.registry import register
from bitgolf.config.rules import Rule, assign_to_rules
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.pack.byte_coders import Brotli
from bitgolf.pack.coders import Coder


@register
class StreamGroup:
    """Codes the arrays of all parameters that match `where` (a pattern as in rules) together as the group `name`.

    Raises `RecipeError` if the name has characters other than letters, digits, `-` and `_`.
    """

    def __init__(self, *, where: str, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):  # a section is named GROUP.ARRAY
            raise RecipeError(f"the group name {name!r} may contain only letters, digits, - and _", where="pack.groups")
        self.where, self.name = where, name


@register
class Pack:
    """How codes become an artifact, and its largest size.

    coder: the lossless coder of all streams.  cap: largest size in bytes; the default is 16 MB, decimal.
    groups: parameters that are coded together. The first match applies; all other parameters are grouped by role.
    """

    def __init__(
        self, *, coder: Spec[Coder], cap: ByteCount = 16_000_000, groups: tuple[Spec[StreamGroup], ...] = ()
    ) -> None:
        if cap < 1:
            raise RecipeError(f"cap must be at least 1 byte, got {cap}", where="pack.cap")
        self.coder, self.cap, self.groups = coder, cap, groups

    def groups_by_path(self, roles: Mapping[str, str]) -> dict[str, str]:
        """Map path -> role to path -> group. Raises `RecipeError` if a group matches no parameter."""
        rules: list[Spec[Rule[Any]]] = [part(Rule, where=group().where, use=group) for group in self.groups]
        matches = [rule().matches for rule in rules]
        if not all(any(match(role, path) for match in matches) for path, role in roles.items()):
            rules.append(part(Rule, where="*", use=self.coder))  # matches all others, which keep their role as group
        found = dict(roles)
        for group, paths in zip(self.groups, assign_to_rules(rules, roles, where="pack.groups"), strict=False):
            found.update(dict.fromkeys(paths, group().name))
        return found


def check_coders(pack: Spec[Pack]) -> None:
    """Test every coder that packing needs. Called before training, so that packing does not fail after it.

    Raises `BitgolfError` with the recipe path of the coder, the missing module and a hint on installing it.
    """
    coders = [(f"pack.{at}", node) for at, node in pack.walk()]
    # Innermost coders first, so that the error names the coder that fails and not one that contains it.
    for where, node in [("the artifact's header", part(Brotli)), *reversed(coders)]:
        if not (isinstance(node.cls, type) and issubclass(node.cls, Coder)):
            continue
        try:
            node().self_test()
        except BitgolfError as error:
            cause = f"{node.cls.__name__} does not work on this machine: {error.message}"
            raise BitgolfError(cause, where=where, hint=error.hint) from error
