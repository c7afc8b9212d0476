"""Rules `where -> setting` that assign every parameter to one optimizer, codec or coder.

A parameter has a role (`matrix`, `embedding`, `scale`, ...) and a path (`blocks.3.mixer.q.weight`).
`where` is `role`, `@path-glob` or `role@path-glob`; `*` matches every role. A parameter is assigned to the first rule
that matches it. It is an error if no rule matches a parameter, or if no parameter is assigned to a rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from bitgolf.config.glob import compile_glob
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError

Used = TypeVar("Used", covariant=True)


def selects(where: str, role: str, path: str) -> bool:
    """Return whether `where` (see the module docstring) matches this parameter."""
    wanted, _, glob = where.partition("@")
    return wanted in ("", "*", role) and (not glob or compile_glob(glob).matches(path))


def rule_position(chain: Sequence[Any], item: Any, where: str) -> int:
    """Return the index at which an item is to be added to a chain: its end, except for rules.

    The first matching rule wins, so a rule comes before the first one that matches all that it matches: `*`, or the
    same role without a path. where: the recipe path of the chain, for messages. Raises `RecipeError` if the chain has
    a rule for the same parameters.
    """
    if not (isinstance(item, Spec) and item.cls is Rule):
        return len(chain)
    role, _, glob = item["where"].partition("@")
    for i, rule in enumerate(chain):
        if rule["where"] == item["where"]:
            hint = f"--set {where}.{i}.use=PART changes it"
            raise RecipeError(f"there is a rule for {item['where']!r} already", where=f"{where}.{i}", hint=hint)
        other_role, _, other_glob = rule["where"].partition("@")
        if other_role in ("", "*", role) and other_glob in ("", "**", glob):
            return i
    return len(chain)


@register
class Rule(Generic[Used]):
    """Parameters (`where`, see the module docstring) and the part to `use` for them.

    `Rule[Codec]` assigns a codec, `Rule[UpdateAlgorithm]` an optimizer.
    """

    def __init__(self, *, where: str, use: Spec[Used]) -> None:
        self.where, self.use = where, use

    def matches(self, role: str, path: str) -> bool:
        return selects(self.where, role, path)


def assign_to_rules(
    rules: Sequence[Spec[Rule[Any]]], roles: Mapping[str, str], *, where: str = "rules"
) -> list[list[str]]:
    """Return the paths of the parameters assigned to each rule, in the order of `roles` (path -> role).

    where: the recipe path of `rules`, for messages. Raises `RecipeError` if a parameter matches no rule, and if a rule
    gets no parameter.
    """
    taken = match_rules(rules, roles, where=where)
    for i, (paths, cause) in enumerate(taken):
        if not paths:
            raise RecipeError(cause, where=f"{where}.{i}", hint="remove the rule, or move it further up")
    return [paths for paths, _ in taken]


def match_rules(
    rules: Sequence[Spec[Rule[Any]]], roles: Mapping[str, str], *, where: str = "rules"
) -> list[tuple[list[str], str]]:
    """Return, for each rule, its paths in the order of `roles`, and the reason if it has none (otherwise "").

    Raises `RecipeError` if a parameter matches no rule.
    """
    built = [rule() for rule in rules]
    taken: list[list[str]] = [[] for _ in built]
    for path, role in roles.items():
        winner = next((i for i, rule in enumerate(built) if rule.matches(role, path)), None)
        if winner is None:
            message = f"no rule matches the parameter {path} (role {role!r})"
            raise RecipeError(message, where=where, hint=f"add a rule with where={role!r}")
        taken[winner].append(path)
    return [(taken[i], "" if taken[i] else _explain_unmatched(rule, i, built, roles)) for i, rule in enumerate(built)]


def _explain_unmatched(rule: Rule[Any], index: int, built: Sequence[Rule[Any]], roles: Mapping[str, str]) -> str:
    for path, role in roles.items():
        if rule.matches(role, path):
            first = next(i for i, other in enumerate(built) if other.matches(role, path))
            earlier = f"{path} is already taken by rule {first} ({built[first].where!r})"
            return f"rule {index} ({rule.where!r}) has no effect, earlier rules match the same parameters: {earlier}"
    known = ", ".join(sorted(set(roles.values())))
    return f"the rule {rule.where!r} matches no parameter (roles in this model: {known})"
