"""`DocumentLoRA` against the published evaluation: three documents, their chunks, optimizer steps and warm start."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.recipes import get_recipe
from bitgolf.runtime.device import select_device
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.lora_player import LoRAPlayer
from bitgolf.score.player import ScoringBatch
from bitgolf.score.text import TokenizedText
from oracles.pr1855_parameters import VOCAB, build, load_adapters, published_names

ORDER = (1, 2, 0)  # documents in the order of scoring
SETTINGS = {"window": 24, "stride": 16, "rank": 2, "alpha": 8.0, "lr": 0.003, "weight_decay": 0.5, "rows": 1}


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "oracles" / "pr1855_ttt_lora.safetensors")


@pytest.fixture(scope="module")
def weights(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "oracles" / "pr1855.safetensors")


def test_chunks_and_steps_of_three_documents(oracle: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    """A is kept from one document to the next, B and the moments are reset."""
    recipe = get_recipe("pr1855")
    method: DocumentLoRA = recipe["score.1.lora"].replace(**SETTINGS)()
    player = LoRAPlayer(build(recipe().model, weights), VOCAB, select_device(), method)
    targets = method.target_modules
    load_adapters(player.adapters, targets, oracle, "adapter0/init/")
    text = TokenizedText(oracle["val_tokens"].numpy(), 1)
    tokens, documents = oracle["val_tokens"], text.documents()
    chunks, steps, nats = 0, 0, 0.0
    for number in ORDER:
        start, stop = documents[number]
        for window in method.windows(stop - start, start):
            size = window.stop - window.first_target
            reset = torch.tensor([window.first_target == start])
            batch = ScoringBatch.collate([(tokens[window.start : window.stop], size)], reset)
            assert torch.equal(batch.tokens, oracle[f"score{chunks}/x"])
            wanted = tokens[window.first_target + 1 : window.stop + 1]
            found = -player.predict(batch).log_softmax(-1).gather(1, wanted[:, None])[:, 0]
            expected = oracle[f"score{chunks}/ptl"][0, -size:]
            assert (found - expected).abs().max() < 1e-4, chunks
            assert abs(found.sum().item() - oracle[f"score{chunks}/nats"].item()) < 1e-3
            nats, chunks = nats + found.sum().item(), chunks + 1
            if window.stop < stop:
                player.observe(batch, wanted)
                compare_step(player, targets, oracle, steps)
                steps += 1
    assert (chunks, steps) == (6, 3)
    loss, bpb = oracle["result/val_loss_bpb"].tolist()
    scored = oracle["val_bytes"][1:].sum().item()
    assert abs(nats / (len(tokens) - 1) - loss) < 1e-5 and abs(nats / math.log(2) / scored - bpb) < 1e-5
    player.close()


def compare_step(player: LoRAPlayer, targets: tuple[str, ...], oracle: dict[str, Tensor], step: int) -> None:
    """All factors after a step. With beta1 = 0, the first step on B is the sign of a gradient, which may be tiny."""
    compared = 0
    for leaf, name in zip(player.adapters.leaves, published_names(player.adapters, targets), strict=True):
        clear = oracle[f"step{step}/grad/{name}"].abs() > (1e-5 if name.endswith("B") else -1.0)
        difference = (leaf.detach() - oracle[f"step{step}/after/{name}"]).abs()[clear]
        compared += int(clear.sum())
        assert difference.max() < 1e-5, name
    assert compared > 0.95 * player.adapters.values.numel()


def test_the_recipe_has_the_windows_of_the_original(oracle: dict[str, Tensor]) -> None:
    """Each window ends with its last target and has the whole length, as far as the document has it."""
    method: DocumentLoRA = get_recipe("pr1855")["score.1.lora"].replace(**SETTINGS)()
    for number, chunk in zip(ORDER, (1, 3, 5), strict=True):
        start, stop = TokenizedText(oracle["val_tokens"].numpy(), 1).documents()[number]
        last = [*method.windows(stop - start, start)][-1]
        assert np.array_equal(oracle["val_tokens"][last.start : last.stop], oracle[f"score{chunk}/x"][0])
