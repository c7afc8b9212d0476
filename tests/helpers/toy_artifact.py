"""A toy artifact with random weights, and a text to score, raw and as shards."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import torch

from bitgolf.artifact.model import write_model
from bitgolf.config.spec import Spec
from bitgolf.data.manifest import load_manifest
from bitgolf.data.prepare import prepare_data
from bitgolf.model.build import build_on_meta
from bitgolf.model.parameters import parameter_roles
from bitgolf.quantize.encoding import encode_model
from bitgolf.recipes.recipe import Recipe
from bitgolf.text.documents import Document
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.trainers import SentencePieceBPE
from helpers.toy import toy_recipe


class ToyArtifact(NamedTuple):
    artifact: Path
    shards: Path
    raw: Path  # a folder with the validation documents, in their order


def make_toy(
    folder: Path, recipe: Spec[Recipe] | None = None, documents: int = 8, deviation: float = 0.3
) -> ToyArtifact:
    """An artifact with random weights, and documents of different lengths from a vocabulary of 60 words.

    deviation: of the weights; with a small one all tokens are about equally likely.
    """
    draw, recipe = random.Random(0), recipe or toy_recipe()
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 6))) for _ in range(60)]
    texts = [" ".join(draw.choices(words, k=draw.randint(5, 60))).encode() for _ in range(documents + 20)]
    proto = SentencePieceBPE(vocab=295).train(texts)
    made = [Document(str(i), text) for i, text in enumerate(texts)]
    prepare_data(made[documents:], made[:documents], tokenizer_from_bytes(proto), folder / "shards")
    (folder / "raw").mkdir()
    for i, text in enumerate(texts[:documents]):
        (folder / "raw" / f"{i:02d}.txt").write_bytes(text)
    manifest, chance = load_manifest(folder / "shards"), torch.Generator().manual_seed(0)
    model = build_on_meta(recipe().model, manifest.vocab, manifest.bos)
    weights = {path: deviation * torch.randn(p.shape, generator=chance) for path, p in model.named_parameters()}
    write_model(folder / "artifact.bg", recipe, encode_model(weights, parameter_roles(model), recipe().quantize), proto)
    return ToyArtifact(folder / "artifact.bg", folder / "shards", folder / "raw")
