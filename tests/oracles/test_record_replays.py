"""Scoring of #1855 to #2135 against `record_replay`: nats of each target, adapters, and weights after the phases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from bitgolf.config.parse import apply_assignment
from bitgolf.recipes import get_recipe
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.adapt.lora_player import LoRAPlayer
from bitgolf.score.adapt.ngram_tilt import NGramTiltPlayer
from bitgolf.score.referee import score
from bitgolf.score.text import TokenizedText, append_final_bos
from helpers.small_recipes import VOCAB, small_recipe
from helpers.toy import built
from oracles.pr1855_parameters import published_names
from oracles.record_replay import Replay, Settings
from oracles.reference import BOS

WINDOW, STRIDE, CHUNK, LR, BOOST = 8, 4, 24, 0.01, 2.625
LENGTHS = (25, 12, 17, 21, 7, 5, 19)  # one document remains beside three batches of two
# Recipe -> strides of short documents, and the numbers of documents before the phases.
CASES: dict[str, tuple[tuple[tuple[int, int], ...], tuple[int, ...]]] = {
    "pr1855": ((), (2, 4)),
    "pr1945": ((), (2, 4)),
    "pr1953": ((), (3, 5)),
    "pr2014": (((5, 1), (8, 2)), (3,)),
    "pr2135": ((), (3,)),
}

SLICED = ("pr1953", "pr2014", "pr2135")  # recipes whose windows do not divide a chunk evenly among eight GPUs


def text_of(lengths: tuple[int, ...]) -> TokenizedText:
    """Documents of so many targets, made of a few pieces, so that n-grams repeat."""
    rng = np.random.default_rng(3)
    pieces = rng.integers(2, VOCAB, (4, 4))
    documents = [np.append(BOS, pieces[rng.integers(0, 4, n // 4 + 1)].reshape(-1)[: n - 1]) for n in lengths]
    stream = np.concatenate(documents)
    return TokenizedText(append_final_bos(stream, BOS), len(stream))


def recipe_of(name: str) -> Any:
    """The small recipe whose segments are as long as its windows, as at full size, with faster learning."""
    strides, boundaries = CASES[name]
    method = "score.2.method" if name == "pr2135" else "score.2"
    lora = {"window": WINDOW, "stride": STRIDE, "rows": 2, "short_documents": strides, "lr": LR}
    settings = {f"{method}.lora.{key}": value for key, value in lora.items()}
    sgd = {"chunk": CHUNK, "sgd.lr": 0.5, "boundaries": boundaries}
    if name in SLICED:  # three sequences of a chunk for two ranks
        sgd |= {"sgd.ranks": 2, "sgd.sequence_length": WINDOW}
    else:
        sgd |= {"sgd.batch_size": 1, "sgd.sequence_length": CHUNK}
    settings |= {f"{method}.{key}": value for key, value in sgd.items()}
    settings |= {"score.2.length": 3} if name == "pr2135" else {}
    recipe = small_recipe(get_recipe(name))
    for path, value in {"model.block.mixer.core.masks.0.max_length": WINDOW, **settings}.items():
        if recipe[path] != value:
            recipe = apply_assignment(recipe, f"{path}={value}")
    return recipe


@pytest.mark.parametrize(
    "name",
    [
        "pr1855",
        "pr2014",
        "pr2135",
        *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("pr1945", "pr1953")),
    ],
)
def test_scoring_step_by_step(name: str) -> None:
    recipe, text = recipe_of(name), text_of(LENGTHS)
    model, method = built(recipe().model, vocab=VOCAB).double(), recipe["score.2"]()
    phased = method.method if name == "pr2135" else method
    weights = {path: p.detach().clone() for path, p in model.named_parameters()}
    outer = method.make_player(model, VOCAB, select_device(), SINGLE_PROCESS)
    player = outer.player if isinstance(outer, NGramTiltPlayer) else outer
    assert isinstance(player, LoRAPlayer)
    names = published_names(player.adapters, phased.lora.target_modules)
    start = {key: leaf.detach().clone() for key, leaf in zip(names, player.adapters.leaves, strict=True)}
    settings = Settings(
        rows=2, window=WINDOW, stride=STRIDE, strides=CASES[name][0], scale=phased.lora.scale, lr=LR,
        decay=phased.lora.weight_decay, boundaries=CASES[name][1], chunk=CHUNK, sgd_lr=0.5,
        ranks=2 if name in SLICED else 1, masked=name != "pr2135",
        tilt=3 * (name == "pr2135"), boost=BOOST,
    )  # fmt: skip
    replay = Replay(weights, torch.from_numpy(text.tokens), start, settings)
    replay.run()
    ordered, _ = method.order.apply(text)
    bits = np.zeros(text.num_targets)
    score(outer, ordered, method, charges=bits)
    expected = [replay.nats[slice(*text.documents()[i])] for i in np.argsort([-n for n in LENGTHS])]
    assert (torch.from_numpy(bits) * math.log(2) - torch.cat(expected)).abs().max() < 1e-9
    for path, p in player.model.named_parameters():
        assert (p.detach() - replay.p[path]).abs().max() < 1e-9, path
    assert any(not torch.equal(replay.p[path], weights[path]) for path in weights)
    for key, leaf in zip(names, player.adapters.leaves, strict=True):
        rows = leaf.detach().flip(0)  # the longer document of a batch is the first here, the last there
        assert (rows - replay.lora[key]).abs().max() < 1e-9, key
    outer.close()
