"""A toy artifact with random weights and the text that it is scored on, raw and as shards: no training needed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import torch

from bitgolf.artifact.model import write
from bitgolf.config.spec import Spec
from bitgolf.data.manifest import load_manifest
from bitgolf.data.prepare import prepare
from bitgolf.model.build import build_on_meta
from bitgolf.model.parameters import roles
from bitgolf.quantize.encoding import encode_all
from bitgolf.recipes.recipe import Recipe
from bitgolf.text.documents import Document
from bitgolf.tokens.loading import open_tokenizer
from bitgolf.tokens.trainers import SentencePieceBPE
from helpers.toy import toy_recipe


class Toy(NamedTuple):
    artifact: Path
    shards: Path
    raw: Path  # a folder with the validation documents, in their order


def make_toy(folder: Path, recipe: Spec[Recipe] | None = None, documents: int = 8) -> Toy:
    """Documents of unlike lengths, from sentences of few words; weights that are nothing but noise."""
    draw, recipe = random.Random(0), recipe or toy_recipe()
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 6))) for _ in range(60)]
    texts = [" ".join(draw.choices(words, k=draw.randint(5, 60))).encode() for _ in range(documents + 20)]
    proto = SentencePieceBPE(vocab=295).train(texts)
    made = [Document(str(i), text) for i, text in enumerate(texts)]
    prepare(made[documents:], made[:documents], open_tokenizer(proto), folder / "shards")
    (folder / "raw").mkdir()
    for i, text in enumerate(texts[:documents]):
        (folder / "raw" / f"{i:02d}.txt").write_bytes(text)
    manifest, chance = load_manifest(folder / "shards"), torch.Generator().manual_seed(0)
    model = build_on_meta(recipe["model"], manifest.vocab, manifest.bos)
    weights = {path: 0.3 * torch.randn(p.shape, generator=chance) for path, p in model.named_parameters()}
    write(folder / "artifact.bg", recipe, encode_all(weights, roles(model), recipe["quantize"]), proto)
    return Toy(folder / "artifact.bg", folder / "shards", folder / "raw")
