"""Short paths: the rule by which a setting may be named by some segments of its path, and suggestions for unknown names.

A path may leave out any segments before its last one, as long as only one setting of the recipe can be meant. A segment
may also be the class name of the part that stands there: `seconds`, `model.mlp.hidden`, `Muon.lr`. The full path always
names its own setting.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bitgolf.errors import RecipeError, quoted

if TYPE_CHECKING:
    from bitgolf.config.spec import Spec

SYNONYMS: dict[str, tuple[str, ...]] = {
    "act_fn": ("act",),
    "activation": ("act",),
    "attention": ("mixer",),
    "attn": ("mixer",),
    "batch": ("rows",),
    "batch_size": ("rows",),
    "block_size": ("length",),
    "clip_grad": ("grad_clip",),
    "codec": ("quantize",),
    "context": ("length",),
    "context_length": ("length",),
    "d_ff": ("hidden",),
    "d_model": ("dim",),
    "depth": ("layers",),
    "embedding": ("embed",),
    "epochs": ("seconds", "steps"),
    "ffn": ("mlp",),
    "ffn_dim": ("hidden",),
    "hidden_size": ("dim",),
    "intermediate_size": ("hidden",),
    "iterations": ("steps",),
    "iters": ("steps",),
    "learning_rate": ("lr",),
    "loss": ("objective",),
    "lr_scheduler": ("lr_schedule",),
    "max_bytes": ("cap",),
    "max_grad_norm": ("grad_clip",),
    "max_iters": ("steps",),
    "max_steps": ("steps",),
    "minutes": ("seconds",),
    "mlp_mult": ("hidden",),
    "model_dim": ("dim",),
    "n_embd": ("dim",),
    "n_head": ("heads",),
    "n_layer": ("layers",),
    "num_heads": ("heads",),
    "num_kv_heads": ("kv_heads",),
    "num_layers": ("layers",),
    "optimizer": ("optim",),
    "quantization": ("quantize",),
    "scheduler": ("lr_schedule",),
    "seq_len": ("length",),
    "sequence_length": ("length",),
    "size": ("cap", "dim"),
    "time": ("seconds",),
    "tokenizer": ("tokens",),
    "val_fraction": ("held_out",),
    "vocab_size": ("vocab",),
    "width": ("dim",),
}
"""Names of settings in other programs -> names of the settings here. They are suggested, and never accepted."""

MOST_SUGGESTIONS = 4


def join_path(path: str, key: object) -> str:
    """Return the path of the argument `key` of the node at `path`."""
    return f"{path}.{key}" if path else str(key)


def class_by_path(recipe: Spec[Any]) -> dict[str, str]:
    """Return path -> class name for every part, and path -> "" for every chain and every plain value."""
    nodes = {path: node.name for path, node in recipe.walk() if path}
    found: dict[str, str] = {}
    for path, _ in recipe.leaves():
        keys = path.split(".") if path else []
        for i in range(1, len(keys) + 1):
            prefix = ".".join(keys[:i])
            found[prefix] = nodes.get(prefix, "")
    return found


def short_matches(given: str, classes: Mapping[str, str]) -> list[str]:
    """Return the paths that a full or short path can mean, in the order of the recipe.

    classes: as `class_by_path` returns them.
    """
    if given in classes:
        return [given]
    words = given.split(".")
    return [path for path in classes if _is_short_for(words, _segment_names(path, classes))]


def _segment_names(path: str, classes: Mapping[str, str]) -> list[set[str]]:
    """Return the names of each segment of a path: the segment itself, and the class of the part there."""
    keys = path.split(".")
    return [{key, classes[".".join(keys[: i + 1])] or key} for i, key in enumerate(keys)]


def _is_short_for(words: Sequence[str], names: Sequence[set[str]]) -> bool:
    """Return whether the words name the last segment and, in order, some of the earlier ones."""
    earlier = iter(names[:-1])
    return words[-1] in names[-1] and all(any(word in segment for segment in earlier) for word in words[:-1])


def resolve_path(recipe: Spec[Any], given: str, accepts: Callable[[Any], bool] = lambda value: True) -> str:
    """Return the full path of a setting that is named by a full or short path.

    accepts: whether a value can be meant; where it holds for some of several candidates, the others are left out.
    Raises `RecipeError` if no setting, or more than one, can be meant.
    """
    classes = class_by_path(recipe)
    found = short_matches(given, classes)
    if len(found) > 1:
        found = [path for path in found if accepts(recipe[path])] or found
    if len(found) == 1:
        return found[0]
    if not found:
        message = f"there is no path {quoted(repr(given))} in the recipe"
        raise RecipeError(message, hint=nearest_paths(given, classes))
    listed = [_with_class_name(path, classes) for path in found[:MOST_SUGGESTIONS]]
    more = f" and {len(found) - len(listed)} more" if len(found) > len(listed) else ""
    message = f"{given!r} can mean {len(found)} settings: {', '.join(listed)}{more}"
    raise RecipeError(message, hint="write the full path of one of them")


def _with_class_name(path: str, classes: Mapping[str, str]) -> str:
    """Return a path, with the name of its part and its last segment if that is a short path to it: `Muon.lr`."""
    parent, _, key = path.rpartition(".")
    short = f"{classes.get(parent, '')}.{key}"
    return f"{path} (or {short})" if short_matches(short, classes) == [path] else path


def nearest_paths(given: str, classes: Mapping[str, str]) -> str:
    """Return a hint with the paths that are most like an unknown one.

    The first that are found of: paths that differ in capitals, that end with the same last word, with the name that the
    setting has here (`SYNONYMS`), or with a similar word, and paths that are similar as a whole.
    """
    word = given.rpartition(".")[2].lower()
    by_ending: dict[str, list[str]] = {}
    for path, name in classes.items():
        for ending in {path.rpartition(".")[2].lower(), name.lower()} - {""}:
            by_ending.setdefault(ending, []).append(path)
    lower = {path.lower(): path for path in classes}
    near = [lower[path] for path in short_matches(given.lower(), {p: classes[lower[p]].lower() for p in lower})]
    for endings in ([word], SYNONYMS.get(word, ()), difflib.get_close_matches(word, by_ending, 3, 0.7)):
        near = near or _most_alike(given, [path for ending in endings for path in by_ending.get(ending, [])])
    near = near or difflib.get_close_matches(given, list(classes), 3, 0.6)
    if not near:
        return "`bitgolf show RECIPE` lists every path"
    return f"did you mean {' or '.join(near[:MOST_SUGGESTIONS])}?"


def _most_alike(given: str, paths: Sequence[str]) -> list[str]:
    """Return the paths, the most similar first; for a single word, those with the fewest segments."""
    depth = (lambda path: path.count(".")) if "." not in given else (lambda path: 0)
    return sorted(paths, key=lambda path: (depth(path), -difflib.SequenceMatcher(None, given, path).ratio()))
