"""Artifacts with valid checksums that ask for much: refused within 5 seconds and 500 MB, before anything is built."""

from __future__ import annotations

import copy
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitgolf.artifact.container import artifact_bytes, read_artifact
from bitgolf.artifact.limits import LARGEST, check_stored_recipe
from bitgolf.artifact.model import STORED_FIELDS, TOKENIZER_CODER, load_model, write_model
from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec
from bitgolf.errors import CorruptFileError, RecipeError
from bitgolf.model.parameters import parameter_roles
from bitgolf.pack.streams import Section, pack_blob
from bitgolf.quantize.encoding import encode_model
from bitgolf.recipes import get_recipe, recipe_names
from bitgolf.recipes.recipe import Recipe
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.trainers import SentencePieceBPE
from helpers.toy import toy_recipe

Fields = dict[str, Any]
Change = Callable[[Fields, dict[str, Section]], object]
SECONDS, KILOBYTES = 5.0, 500_000


def written(path: Path, *, spoil: Callable[[np.ndarray[Any, Any]], object] | None = None) -> bytes:
    """An artifact of the toy recipe with random weights. spoil: changes each tensor that is stored as floats."""
    proto = SentencePieceBPE(vocab=300).train([b"a small text, a small tokenizer, a small model " * 40])
    recipe: Spec[Recipe] = toy_recipe()
    torch.manual_seed(0)
    model = recipe().model(BuildContext(vocab=tokenizer_from_bytes(proto).vocab))
    weights = {k: p.detach() + 0.1 * torch.randn_like(p) for k, p in model.named_parameters()}
    codes = encode_model(weights, parameter_roles(model), recipe().quantize)
    if spoil:
        for array in (a for code in codes.values() if len(code) == 1 for a in code.values()):
            spoil(array)
    write_model(path, recipe, codes, proto)
    return path.read_bytes()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return written(tmp_path_factory.mktemp("artifact") / "artifact.bg")


def changed(artifact: bytes, change: Change) -> bytes:
    """The artifact with its recipe or sections changed, and valid checksums."""
    a = read_artifact(artifact)
    recipe, sections = copy.deepcopy(a.recipe), dict(a.sections)
    change(recipe, sections)
    return artifact_bytes(recipe=recipe, meta=a.meta, sections=list(sections.values()))


def wrap(recipe: Fields, layers: str) -> None:
    """Restrict a part of each layer to these layers."""
    chain = recipe["model"]["block"]["mixer"]["qk"]
    chain[0] = {"part": "Only", "layers": layers, "matrices": "", "use": chain[0]}


def loop(recipe: Fields, since: list[float]) -> None:
    order = {"part": "LoopedLayers", "first_layer": 0, "last_layer": 1, "since": since}
    recipe["model"]["layer_schedule"]["order"] = order


def method(recipe: Fields, name: str, **settings: Any) -> None:
    recipe["score"].append({"part": name, **settings})


def tokenizer(sections: dict[str, Section], size: int) -> None:
    """A tokenizer of many zeros, in a few bytes."""
    blob = pack_blob("tokenizer", bytes(1 << 22), TOKENIZER_CODER)
    sections["tokenizer"] = Section("tokenizer", blob.codec, blob.data, size, size)


REQUESTS: dict[str, Change] = {
    "a set of billions of layers": lambda r, s: wrap(r, "first 99999999999"),
    "a range of billions of layers": lambda r, s: wrap(r, "0-99999999999"),
    "a long list of layers": lambda r, s: wrap(r, "0," * 100_000 + "1"),
    "a pattern with ten wildcards": lambda r, s: r["quantize"][0].update(where="@" + "**a" * 10 + "x"),
    "a pattern of a megabyte": lambda r, s: r["quantize"][0].update(where="@" + "*a" * 250_000),
    "thousands of rules": lambda r, s: r.update(quantize=r["quantize"] * 1500),
    "a tokenizer of 400 MB": lambda r, s: tokenizer(s, 400 << 20),
    "a tokenizer of zeros": lambda r, s: tokenizer(s, 1 << 22),
    "nine thousand moments of a loop": lambda r, s: loop(r, [0.5] * 9000),
    "a thousand layers": lambda r, s: r["model"].update(layers=1000),
    "layers with a thousand parts": lambda r, s: (
        r["model"].update(layers=250),
        r["model"]["block"].update(pre_block=r["model"]["block"]["pre_block"] * 64),
    ),
    "a billion parameters": lambda r, s: r["model"]["block"]["mlp"].update(hidden=1 << 22),
    "a huge float": lambda r, s: method(r, "DocumentLoRA", lr=1e300),
    "rows of 2^24": lambda r, s: method(r, "DocumentLoRA", rows=1 << 24),
    "a rank of 2^24": lambda r, s: method(r, "DocumentLoRA", rank=1 << 24),
    "rows times rank": lambda r, s: method(r, "DocumentLoRA", rank=1 << 10, rows=1 << 12),
    "steps of 2^24": lambda r, s: method(r, "DocumentLoRA", steps=1 << 24),
    "windows of 2^24": lambda r, s: method(r, "SlidingScoring", window=1 << 24),
    "cached rows": lambda r, s: method(r, "CachedScoring", rows=1 << 24),
    "rows times window": lambda r, s: method(r, "CachedScoring", rows=1 << 12, window=1 << 17),
    "epochs of 2^24": lambda r, s: method(r, "StreamSGD", adaptation={"part": "SGDAdaptation", "epochs": 1 << 24}),
    "batches of 2^24": lambda r, s: method(r, "StreamSGD", adaptation={"part": "SGDAdaptation", "batch_size": 1 << 24}),
    "a history of 2^28": lambda r, s: method(r, "NGramMixing", history=1 << 28),
    "nested deeply": lambda r, s: r["score"][0].update(rope_scaling=nested(300)),
}


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 0


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_for_much_is_refused_at_once(artifact: bytes, name: str) -> None:
    data = changed(artifact, REQUESTS[name])
    assert len(data) < 60_000
    memory, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(CorruptFileError) as caught:
        load_model(data)
    assert time.perf_counter() - started < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < KILOBYTES
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_stored_floats_must_be_finite(tmp_path: Path, value: float) -> None:
    def spoil(array: np.ndarray[Any, Any]) -> None:
        array.reshape(-1)[-1] = value

    with pytest.raises(CorruptFileError, match="has a value that is NaN or infinite"):
        load_model(written(tmp_path / "a.bg", spoil=spoil))


@pytest.mark.parametrize("name", recipe_names())
def test_the_limits_allow_every_recipe(name: str) -> None:
    fields = get_recipe(name).to_json()
    check_stored_recipe({field: fields[field] for field in STORED_FIELDS})


@pytest.mark.parametrize("key", LARGEST)
def test_each_limit_is_exact(key: str) -> None:
    check_stored_recipe({"score": [{key: LARGEST[key]}]})
    with pytest.raises(RecipeError, match="too large"):
        check_stored_recipe({"score": [{key: LARGEST[key] + 1}]})


def test_other_numbers_texts_and_lists_have_limits_too() -> None:
    for value in (1 << 23, -(1 << 23), 1e16, float("nan"), float("inf"), "a" * 501, [0] * 65, 10**400):
        with pytest.raises(RecipeError, match="limit"):
            check_stored_recipe({"model": {"anything": value}})
