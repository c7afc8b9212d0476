"""Settings of a recipe for packing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from bitgolf.config.ranges import ByteCount
from bitgolf.config.registry import register
from bitgolf.config.rules import Rule, assign_to_rules
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.pack.byte_coders import Brotli
from bitgolf.pack.coders import Coder

Counted = Literal["model", "model+code"]
"""What a cap limits."""


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
    counted: what the cap limits. `model+code`, as in the challenge: the artifact without its tokenizer, and the script
    that `export` writes; `model`: the artifact without its tokenizer alone.
    groups: parameters that are coded together. The first match applies; all other parameters are grouped by role.
    """

    def __init__(
        self,
        *,
        coder: Spec[Coder],
        cap: ByteCount = 16_000_000,
        counted: Counted = "model+code",
        groups: tuple[Spec[StreamGroup], ...] = (),
    ) -> None:
        if cap < 1:
            raise RecipeError(f"cap must be at least 1 byte, got {cap}", where="pack.cap")
        self.coder, self.cap, self.counted, self.groups = coder, cap, counted, groups

    def counted_code(self, code: int | None) -> int:
        """Bytes of code that count against the cap. code: size of the script, None if there is none."""
        return code or 0 if self.counted == "model+code" else 0

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
