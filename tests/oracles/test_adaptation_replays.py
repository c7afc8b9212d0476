"""Adaptation during scoring against plain loops in float64, which share no code with `bitgolf.score`.

Models are those of `reference`, at small size: #1090 with adapters per document, #1493 with gradient descent after each
chunk of the stream, #1855 with phases of descent between its documents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bitgolf.config.parse import apply_assignment
from bitgolf.model.lm import LM
from bitgolf.recipes import get_recipe
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.adapt.lora_player import LoRAPlayer
from bitgolf.score.methods import ScoringMethod, SlidingScoring
from bitgolf.score.player import Player
from bitgolf.score.referee import score
from bitgolf.score.text import TokenizedText, append_final_bos
from helpers.small_recipes import VOCAB, small_recipe
from helpers.toy import built
from oracles import reference
from oracles.reference import BOS
from oracles.test_references import LOOPED

Params = dict[str, Tensor]
Forward = Callable[[Params, Tensor], Tensor]


def small(name: str, *assignments: str) -> tuple[LM, ScoringMethod]:
    """The small model of a recipe in float64, and the last of its scoring methods with these settings."""
    recipe = small_recipe(get_recipe(name))
    last = len(recipe["score"]) - 1
    for assignment in assignments:
        recipe = apply_assignment(recipe, f"score.{last}.{assignment}")
    return built(recipe().model, vocab=VOCAB).double(), recipe[f"score.{last}"]()


def text_of(lengths: Sequence[int]) -> TokenizedText:
    """Documents of so many targets, each with a BOS before it. Few distinct tokens, so that there is much to learn."""
    rng = np.random.default_rng(0)
    documents = [np.append(BOS, rng.choice(rng.integers(2, VOCAB, 6), n - 1)) for n in lengths]
    stream = np.concatenate(documents)
    return TokenizedText(append_final_bos(stream, BOS), len(stream))


def charges(player: Player, method: ScoringMethod, text: TokenizedText) -> Tensor:
    """Nats of each target, by the referee."""
    bits = np.zeros(text.num_targets)
    score(player, text, method, charges=bits)
    player.close()
    return torch.from_numpy(bits) * math.log(2)


def parameters(model: LM) -> Params:
    return {path: p.detach().clone() for path, p in model.named_parameters()}


def nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Nats of each target: logits (n, V), targets (n,)."""
    return logits.logsumexp(-1) - logits.gather(-1, targets[:, None])[:, 0]


# ---- #1090: adapters of rank 2 on q and v, reset at each document ------------------------------------------------------


def adam(values: list[Tensor], grads: Sequence[Tensor], moments: list[list[Tensor]], step: int, lr: float) -> None:
    for value, grad, (mean, square) in zip(values, grads, moments, strict=True):
        mean += 0.1 * (grad - mean)
        square += 0.001 * (grad * grad - square)
        value -= lr * mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)


def lora_nats(p: Params, tokens: Tensor, start: list[Tensor], paths: list[str], lr: float) -> Tensor:
    """Nats of a document, tokens (n + 1,): windows of 32 tokens, of which the last 16 are targets, then a step."""
    values = [x.clone() for x in start]
    moments = [[torch.zeros_like(x), torch.zeros_like(x)] for x in values]
    found, targets = list[Tensor](), len(tokens) - 1
    for step, first in enumerate(range(0, targets, 16), 1):
        stop = min(first + 16, targets)
        begin = max(0, first + 16 - 32)
        leaves = [x.requires_grad_() for x in values]
        merged = {path: p[path] + 0.5 * b @ a for path, a, b in zip(paths, leaves[::2], leaves[1::2], strict=True)}
        logits = reference.pr1090({**p, **merged}, tokens[None, begin:stop], masked=True)[0, first - begin :]
        losses = nats(logits, tokens[first + 1 : stop + 1])
        found.append(losses.detach())
        grads = torch.autograd.grad(losses.mean(), leaves)
        values = [x.detach() for x in leaves]
        if stop < targets:
            adam(values, grads, moments, step, lr)
    return torch.cat(found)


def test_first_generation_adapters_of_pr1090() -> None:
    model, method = small("pr1090", "lr=0.05")
    text, p = text_of((70, 9, 33, 48)), parameters(model)
    player = method.make_player(model, VOCAB, select_device(), SINGLE_PROCESS)
    assert isinstance(player, LoRAPlayer) and player.adapters.scale == 0.5
    start = [leaf.detach()[0].clone() for leaf in player.adapters.leaves]
    paths = [f"blocks.{i}.mixer.{name}.weight" for name in "qv" for i in range(11)]
    found, tokens = charges(player, method, text), torch.from_numpy(text.tokens)
    expected = [lora_nats(p, tokens[a : b + 1], start, paths, 0.05) for a, b in text.documents()]
    assert (found - torch.cat(expected)).abs().max() < 1e-6
    still = [lora_nats(p, tokens[a : b + 1], start, paths, 0.0) for a, b in text.documents()]
    assert (found - torch.cat(still)).abs().max() > 0.05


# ---- descent on all weights --------------------------------------------------------------------------------------------


def descend(forward: Forward, p: Params, momentum: Params, rows: list[tuple[Tensor, Tensor]], lr: float) -> None:
    """One step of SGD with momentum 0.9 on the mean over all targets of the rows, with a gradient norm of at most 1."""
    leaves = {path: x.requires_grad_() for path, x in p.items()}
    loss = torch.cat([nats(forward(leaves, x[None])[0], y) for x, y in rows]).mean()
    grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    norm = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
    factor = min(1.0, 1.0 / (norm.item() + 1e-6))
    for (path, x), grad in zip(p.items(), grads, strict=True):
        momentum[path] = 0.9 * momentum[path] + factor * grad
        p[path] = (x - lr * momentum[path]).detach()


def cosine(number: int, last: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * number / last))


def test_chunked_descent_of_pr1493() -> None:
    """Windows of 32 at stride 16, chunks of 60, three epochs over sequences of 16 in steps of two sequences."""
    model, method = small("pr1493", "adaptation.lr=0.05", "chunk=60")
    text, p, tokens = text_of((70, 9, 33, 88)), parameters(model), torch.from_numpy(text_of((70, 9, 33, 88)).tokens)

    def forward(q: Params, ids: Tensor) -> Tensor:
        return reference.pr1493(q, ids, visits=LOOPED)

    player = method.make_player(model, VOCAB, select_device(), SINGLE_PROCESS)
    found, expected = charges(player, method, text), torch.zeros(text.num_targets, dtype=torch.float64)
    windows = [(0, 32), *((first, min(first + 16, 200)) for first in range(32, 200, 16))]
    momentum = {path: torch.zeros_like(x) for path, x in p.items()}
    chunks = math.ceil(200 / 60)
    for chunk in range(chunks):
        begin, end = 60 * chunk, min(60 * chunk + 60, 200)
        for first, stop in windows:
            if begin <= first < end:
                context = max(0, first + 16 - 32)
                logits = forward(p, tokens[None, context:stop])[0, first - context :]
                expected[first:stop] = nats(logits, tokens[first + 1 : stop + 1]).detach()
        starts = [*range(begin, end, 16)]
        rows = [(tokens[s : min(s + 16, end)], tokens[s + 1 : min(s + 16, end) + 1]) for s in starts]
        for _ in range(3 if chunk < chunks - 1 else 0):
            for pair in range(0, len(rows), 2):
                descend(forward, p, momentum, rows[pair : pair + 2], 0.05 * cosine(chunk, chunks - 1))
    assert (found - expected).abs().max() < 1e-6
    baseline = SlidingScoring(window=32, stride=16)
    still = charges(baseline.make_player(model, VOCAB, select_device(), SINGLE_PROCESS), baseline, text)
    assert (found - still).abs().max() > 0.05


@pytest.mark.parametrize("in_flight", [0, 1])
def test_phases_of_pr1855(in_flight: int) -> None:
    """Adapters stand still (lr 0), so only the phases act: text, rows, rates, and where they begin."""
    settings: list[Any] = [f"batches_in_flight={in_flight}", "boundaries=(2,4)", "chunk=32", "sgd.lr=0.1", "lora.lr=0"]
    model, method = small("pr1855", *settings, "lora.rows=2")
    lengths = (61, 48, 40, 39, 30, 25, 22, 14, 9)
    text, p = text_of(lengths), parameters(model)
    tokens, documents = torch.from_numpy(text.tokens), text.documents()

    def forward(q: Params, ids: Tensor) -> Tensor:
        return reference.pr1855(q, ids, visits=LOOPED)

    player = method.make_player(model, VOCAB, select_device(), SINGLE_PROCESS)
    found = charges(player, method, text)
    expected = list[Tensor]()
    # nine documents in batches of two: one, then two at a time; with one batch in flight, the first is the late one
    scored = [0, 3, 5, 9] if in_flight == 0 else [0, 3, 7, 9]
    for phase, (begin, end) in enumerate(pairwise(scored)):
        for start, stop in documents[begin:end]:
            expected.append(static_nats(forward, p, tokens[start : stop + 1]))
        if phase < 2:
            last = documents[:end][-(2, 4)[phase] :]
            own = torch.cat([tokens[start : stop + 1] for start, stop in reversed(last)])
            train_phase(forward, p, own)
    assert (found - torch.cat(expected)).abs().max() < 1e-6
    still = [static_nats(forward, parameters(model), tokens[a : b + 1]) for a, b in documents]
    assert (found - torch.cat(still)).abs().max() > 0.05


def static_nats(forward: Forward, p: Params, tokens: Tensor) -> Tensor:
    """Nats of a document, tokens (n + 1,): 16 targets at a time, in windows of 32 tokens that end with the last one."""
    found, targets = list[Tensor](), len(tokens) - 1
    for first in range(0, targets, 16):
        stop = min(first + 16, targets)
        begin = max(0, stop - 32)
        logits = forward(p, tokens[None, begin:stop])[0, first - begin :]
        found.append(nats(logits, tokens[first + 1 : stop + 1]).detach())
    return torch.cat(found)


def train_phase(forward: Forward, p: Params, text: Tensor) -> None:
    """Chunks of 32 targets but the last, each one step over two rows of 16; momentum starts at zero."""
    momentum = {path: torch.zeros_like(x) for path, x in p.items()}
    starts = [*range(0, len(text) - 1, 32)]
    for number, start in enumerate(starts[:-1]):
        rows = [(text[s : s + 16], text[s + 1 : s + 17]) for s in (start, start + 16)]
        descend(forward, p, momentum, rows, 0.1 * cosine(number, len(starts) - 1))
