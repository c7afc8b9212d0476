"""Rules with exact cover: `where -> setting`, used alike by optimizer, codec and packer.

A parameter has a role (`matrix`, `embedding`, `scale`, ...) and a path (`blocks.3.mixer.q.weight`).
`where` is `role`, `@path-glob` or `role@path-glob`; `*` is every role. The first match wins; every parameter is taken
exactly once; a rule that takes nothing is an error, also when an earlier rule took all it would have taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, compile_glob
from bitgolf.errors import RecipeError

Used = TypeVar("Used", covariant=True)


def selects(where: str, role: str, path: str) -> bool:
    """Whether `where` (see the module) means this parameter."""
    wanted, _, glob = where.partition("@")
    return wanted in ("", "*", role) and (not glob or compile_glob(glob).fullmatch(path) is not None)


@register
class Rule(Generic[Used]):
    """`where` (see the module) and what to `use` there: `Rule[Codec]` uses a codec, `Rule[UpdateAlgorithm]` an optimizer."""

    def __init__(self, *, where: str, use: Spec[Used]) -> None:
        self.where, self.use = where, use

    def matches(self, role: str, path: str) -> bool:
        return selects(self.where, role, path)


def assign_to_rules(
    rules: Sequence[Spec[Rule[Any]]], roles: Mapping[str, str], *, where: str = "rules"
) -> list[list[str]]:
    """For each rule the paths that it takes, in the order of `roles` (path -> role).

    Raises `RecipeError` for a parameter that no rule takes, and for a rule that takes none (naming who took them).
    """
    taken = matches(rules, roles, where=where)
    for i, (paths, cause) in enumerate(taken):
        if not paths:
            raise RecipeError(cause, where=f"{where}.{i}", hint="remove it, or put it earlier")
    return [paths for paths, _ in taken]


def matches(
    rules: Sequence[Spec[Rule[Any]]], roles: Mapping[str, str], *, where: str = "rules"
) -> list[tuple[list[str], str]]:
    """For each rule the paths that it takes, in the order of `roles`, and where it takes none, why not.

    Raises `RecipeError` for a parameter that no rule takes.
    """
    built = [rule() for rule in rules]
    taken: list[list[str]] = [[] for _ in built]
    for path, role in roles.items():
        winner = next((i for i, rule in enumerate(built) if rule.matches(role, path)), None)
        if winner is None:
            raise RecipeError(f"no rule takes the parameter {path} (role {role!r})", where=where, hint="add a rule")
        taken[winner].append(path)
    return [(taken[i], "" if taken[i] else _explain_unmatched(rule, i, built, roles)) for i, rule in enumerate(built)]


def _explain_unmatched(rule: Rule[Any], index: int, built: Sequence[Rule[Any]], roles: Mapping[str, str]) -> str:
    for path, role in roles.items():
        if rule.matches(role, path):
            first = next(i for i, other in enumerate(built) if other.matches(role, path))
            return f"two rules for one parameter: {path} is already taken by rule {first} ({built[first].where!r}), so rule {index} ({rule.where!r}) never acts"
    known = ", ".join(sorted(set(roles.values())))
    return f"the rule {rule.where!r} matches nothing (roles here: {known})"
