"""Parsing: recipes from their JSON form, and edits of a recipe from the command line."""

from __future__ import annotations

from typing import Any, NamedTuple

from bitgolf.config.paths import class_by_path, resolve_path, short_matches
from bitgolf.config.readable import readable
from bitgolf.config.registry import lookup
from bitgolf.config.rules import rule_position
from bitgolf.config.spec import Spec, join_path, make_node, schema
from bitgolf.config.values import item_annotation, parse_value
from bitgolf.errors import RecipeError, error_location, quoted

MAX_VALUES, MAX_DEPTH = 10_000, 40  # of a recipe's JSON form
LONGEST_HINT = 120  # characters of a value in a hint


def from_json(value: Any) -> Spec[Any]:
    """Return the recipe that `Spec.to_json` wrote. Safe for untrusted input.

    Raises `RecipeError` for more than `MAX_VALUES` values, nesting deeper than `MAX_DEPTH`, a name that is not
    registered, or a value of the wrong type.
    """
    budget = [MAX_VALUES]
    node = _node(value, budget, 0, "")
    if not isinstance(node, Spec):
        raise RecipeError(f"a recipe must be a JSON object with the key 'part', got {str(value)[:80]}")
    return node


def _node(value: Any, budget: list[int], depth: int, path: str) -> Any:
    budget[0] -= 1
    if budget[0] < 0 or depth > MAX_DEPTH:
        raise RecipeError(f"the recipe is too large: more than {MAX_VALUES:,} values, or nested over {MAX_DEPTH} deep")
    if isinstance(value, list):
        return tuple(_node(v, budget, depth + 1, join_path(path, i)) for i, v in enumerate(value))
    if isinstance(value, dict) and "part" in value:
        kwargs = {k: _node(v, budget, depth + 1, join_path(path, k)) for k, v in value.items() if k != "part"}
        with error_location(path):
            return make_node(lookup(value["part"]), kwargs, path)
    if isinstance(value, dict):
        return {k: _node(v, budget, depth + 1, join_path(path, k)) for k, v in value.items()}
    return value


# ---- edits from a command line ---------------------------------------------------------------------------------


class AppliedEdit(NamedTuple):
    """A recipe after an edit, and what the edit did beyond its own words, for the user; "" if there is nothing to say."""

    recipe: Spec[Any]
    note: str


def apply_assignment(recipe: Spec[Any], assignment: str) -> Spec[Any]:
    """Return the recipe after `apply_edit`."""
    return apply_edit(recipe, assignment).recipe


def apply_edit(recipe: Spec[Any], edit: str) -> AppliedEdit:
    """Return the recipe with one edit applied: `PATH=VALUE` replaces a value, `PATH+=PART` adds to a chain.

    PATH is a full or short path (`config.paths`), VALUE what `config.values` describes. Raises `RecipeError` for a
    path that no setting, or more than one, can have, and for a value that does not fit the type of the argument.
    """
    given, equals, text = edit.partition("=")
    adds = given.endswith("+")
    given = given.removesuffix("+").strip()
    if not equals or not given:
        raise RecipeError(f"expected PATH=VALUE, got {quoted(repr(edit))}", hint=_example(recipe, given))
    if not text.strip():
        raise RecipeError(
            f"expected PATH=VALUE, got {quoted(repr(edit))} without a value", hint=_example(recipe, given)
        )
    path = resolve_path(recipe, given, (lambda value: isinstance(value, tuple)) if adds else (lambda value: True))
    resolved = f"{given} is {path}" if path != given else ""
    changed, did = _add(recipe, path, text) if adds else _set(recipe, path, text)
    return AppliedEdit(changed, "; ".join(filter(None, (resolved, did))))


def _set(recipe: Spec[Any], path: str, text: str) -> tuple[Spec[Any], str]:
    """Return the recipe with the value at `path` replaced, and a note if that is nothing, or a chain by one part."""
    before = recipe[path]
    value = _value_at(recipe, path, text)
    changed = recipe.set(path, value)
    if changed == recipe:
        return recipe, f"--set {path}={quoted(text.strip())} changes nothing: the recipe already has this value"
    if isinstance(before, tuple) and isinstance(value, tuple) and len(before) > len(value) == 1 and "," not in text:
        return changed, f"replaces all {len(before)} values of {path}; --add keeps them"
    return changed, ""


def _add(recipe: Spec[Any], path: str, text: str) -> tuple[Spec[Any], str]:
    """Return the recipe with parts added to the chain at `path`, and a note that says where they are."""
    chain = recipe[path]
    if not isinstance(chain, tuple):
        hint = f"--set {path}={text.strip()} replaces it"
        raise RecipeError(f"this is no chain, so nothing can be added: it is {readable(chain)}", where=path, hint=hint)
    longer, places = chain, list[str]()
    for item in _value_at(recipe, path, text):
        at = rule_position(longer, item, path)
        longer = (*longer[:at], item, *longer[at:])
        taken = (
            f", before {readable(longer[at + 1].kwargs['where'])!r}, which matches the same"
            if at + 1 < len(longer)
            else ""
        )
        places.append(f"{item.name if isinstance(item, Spec) else item} is added as {path}.{at}{taken}")
    return recipe.set(path, longer), "; ".join(places)


def _value_at(recipe: Spec[Any], path: str, text: str) -> Any:
    """Return the value of `text` in the type that the setting at `path` has. The hint of an error tells its value now."""
    try:
        return parse_value(text, _annotation_at(recipe, path), path)
    except RecipeError as error:
        error.where = error.where or path
        error.hint = error.hint or f"its value now is {quoted(readable(recipe[path]), LONGEST_HINT)}"
        raise


def _annotation_at(recipe: Spec[Any], path: str) -> Any:
    """Return the annotation of the setting at a path; for an item of a chain, that of its items."""
    parent_path, _, key = path.rpartition(".")
    parent = recipe[parent_path] if parent_path else recipe
    if isinstance(parent, Spec):
        return schema(parent.cls)[key][0]
    return item_annotation(_annotation_at(recipe, parent_path))


def _example(recipe: Spec[Any], given: str) -> str:
    """Return the hint for an edit without a value: the same with the setting's value, if there is one setting."""
    found = short_matches(given, class_by_path(recipe)) if given else []
    if len(found) != 1:
        return "for example --set train.seconds=60"
    return f"for example --set {given}={quoted(readable(recipe[found[0]]), LONGEST_HINT)}, which is its value now"
