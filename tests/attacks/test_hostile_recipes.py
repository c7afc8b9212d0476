"""Artifacts with valid checksums and false contents: each gives one clear error quickly, and never a model.

`test_hostile_artifacts` mutates bytes; these tests rewrite the header and recompute its checksums.
"""

from __future__ import annotations

import copy
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bitgolf.artifact.container import artifact_bytes, read_artifact
from bitgolf.artifact.model import load_model, write_model
from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, CorruptFileError, RecipeError
from bitgolf.model.parameters import parameter_roles
from bitgolf.pack.streams import Section
from bitgolf.quantize.encoding import encode_model
from bitgolf.recipes.recipe import Recipe
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.trainers import SentencePieceBPE
from helpers.toy import toy_recipe

Change = Callable[[dict[str, Any], dict[str, Any], dict[str, Section]], Any]
IDS = torch.arange(12)[None] + 3


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A valid artifact: toy recipe, random weights, a trained tokenizer."""
    proto = SentencePieceBPE(vocab=300).train([b"a small text, a small tokenizer, a small model " * 40])
    recipe: Spec[Recipe] = toy_recipe()
    torch.manual_seed(0)
    model = recipe().model(BuildContext(vocab=tokenizer_from_bytes(proto).vocab))
    weights = {k: p.detach() + 0.1 * torch.randn_like(p) for k, p in model.named_parameters()}
    path = tmp_path_factory.mktemp("artifact") / "artifact.bg"
    write_model(path, recipe, encode_model(weights, parameter_roles(model), recipe().quantize), proto)
    return path.read_bytes()


@pytest.fixture(scope="module")
def logits(artifact: bytes) -> Tensor:
    return load_model(artifact).model(IDS)


def rewritten(artifact: bytes, change: Change) -> bytes:
    """The artifact with its header or sections changed and all checksums recomputed."""
    a = read_artifact(artifact)
    recipe, meta, sections = copy.deepcopy(a.recipe), dict(a.meta), dict(a.sections)
    change(recipe, meta, sections)
    return artifact_bytes(recipe=recipe, meta=meta, sections=list(sections.values()))


def set_at(*path: Any) -> Change:
    """A change of the recipe: set the value at `path[:-1]` to `path[-1]`."""

    def change(recipe: dict[str, Any], meta: dict[str, Any], sections: dict[str, Section]) -> None:
        node: Any = recipe
        for key in path[:-2]:
            node = node[key]
        node[path[-2]] = path[-1]

    return change


LIES: dict[str, Change] = {
    "endless layers": set_at("model", "layers", 10**9),
    "many layers": set_at("model", "layers", 513),
    "millions of layers": set_at("model", "layers", 2**22),
    "more layers than weights": set_at("model", "layers", 3),
    "no layers": set_at("model", "layers", 0),
    "negative layers": set_at("model", "layers", -1),
    "a giant width": set_at("model", "dim", 2**24),
    "a width that does not divide": set_at("model", "dim", 33),
    "zero heads": set_at("model", "block", "mixer", "heads", 0),
    "a giant branch": set_at("model", "block", "mlp", "hidden", 2**23),
    "a huge number": set_at("model", "block", "mlp", "hidden", 10**30),
    "a part that is no part": set_at("model", "block", "part", "cli.main"),
    "a part outside the package": set_at("model", "block", "part", "os.system"),
    "a part of another socket": set_at("model", "block", "mlp", "part", "MixX0"),
    "an argument nobody knows": set_at("model", "block", "shell", "rm"),
    "a string for a number": set_at("model", "dim", "32"),
    "no model": lambda r, m, s: r.pop("model"),
    "another slice": lambda r, m, s: r.update(train={}),
    "other bits": set_at("quantize", 1, "use", "bits", 2),
    "a dead rule": set_at("quantize", 0, "where", "nothing"),
    "a tokenizer that is none": lambda r, m, s: s.update(tokenizer=Section("tokenizer", "brotli", b"xx", 9, 9)),
    "no tokenizer": lambda r, m, s: s.pop("tokenizer"),
    "another vocabulary": lambda r, m, s: m.update(vocab=299),
    "no vocabulary": lambda r, m, s: m.pop("vocab"),
    "a giant vocabulary": lambda r, m, s: m.update(vocab=2**40),
    "a truth for a vocabulary": lambda r, m, s: m.update(vocab=True),
    "a section too few": lambda r, m, s: s.pop("matrix.codes"),
    "a section too many": lambda r, m, s: s.update(more=Section("more", "raw", b"x", 1, 1)),
    "two sections exchanged": lambda r, m, s: s.update({"matrix.codes": s["embedding.codes"]}),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_one_clear_error(artifact: bytes, name: str) -> None:
    started = time.perf_counter()
    with pytest.raises(CorruptFileError):
        load_model(_forged(artifact, LIES[name]))
    assert time.perf_counter() - started < 20


def _forged(artifact: bytes, change: Callable[..., None]) -> bytes:
    try:
        return rewritten(artifact, change)
    except BitgolfError as error:  # the writer refuses it, which counts as detected
        raise CorruptFileError(str(error)) from None


def test_memory_stays_bounded(artifact: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("a giant width", "a giant branch", "many layers"):
        with pytest.raises(CorruptFileError):
            load_model(_forged(artifact, LIES[name]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


@pytest.mark.parametrize("recipes", [250, pytest.param(1000, marks=pytest.mark.exhaustive)])
def test_random_values_anywhere_in_the_recipe(recipes: int, artifact: bytes, logits: Tensor) -> None:
    """Recipes, each with one value replaced: an error, or a model with the same logits."""
    chance = random.Random(3)
    values = [
        0,
        1,
        -1,
        3,
        64,
        2**31,
        0.0,
        -1.5,
        1e308,
        "",
        "x",
        None,
        True,
        [],
        {},
        [1],
        {"part": "SquaredReLU"},
    ]
    survived = 0
    for _ in range(recipes):

        def change(recipe: dict[str, Any], meta: dict[str, Any], sections: dict[str, Section]) -> None:
            node, key = chance.choice(list(_places(recipe)))
            node[key] = chance.choice(values)

        try:
            loaded = load_model(_forged(artifact, change))
        except CorruptFileError:
            continue
        survived += 1
        assert loaded.model(IDS).shape == logits.shape
    assert survived < 0.6 * recipes, (
        "most changes must be detected; the others are valid settings, such as a window or a name"
    )


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def test_the_honest_artifact_loads(artifact: bytes, logits: Tensor) -> None:
    assert torch.equal(load_model(rewritten(artifact, lambda r, m, s: None)).model(IDS), logits)


def test_a_cap_may_be_larger_than_any_size_of_a_model(artifact: bytes, logits: Tensor) -> None:
    large = load_model(rewritten(artifact, set_at("pack", "cap", 5_000_000_000)))
    assert torch.equal(large.model(IDS), logits) and large.recipe.pack["cap"] == 5_000_000_000


@pytest.mark.parametrize(("path", "value"), [("model.layers", 513)])
def test_what_no_reader_accepts_is_not_written(tmp_path: Path, path: str, value: int) -> None:
    with pytest.raises(RecipeError, match=r"artifact"):
        write_model(tmp_path / "a.bg", toy_recipe().set(path, value), {}, b"")
    assert not list(tmp_path.iterdir())


def test_a_bug_of_ours_is_not_called_damage(artifact: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("bitgolf.artifact.model.decode_model", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        load_model(artifact)


def test_the_cause_of_an_error_is_kept(artifact: bytes) -> None:
    with pytest.raises(CorruptFileError) as caught:
        load_model(rewritten(artifact, LIES["a width that does not divide"]))
    assert caught.value.__cause__ is not None
