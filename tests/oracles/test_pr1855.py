"""The model of Parameter Golf #1855 and its adapters against values from its script (small width)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.config.spec import part
from bitgolf.model.attention.cores.sdpa import SegmentMask
from bitgolf.model.batched_lora import BatchedLoRA
from bitgolf.model.lm import LM
from bitgolf.model.part import Scheduled
from bitgolf.recipes import get_recipe
from bitgolf.runtime.progress import TrainingProgress
from oracles.pr1855_parameters import build, load_adapters, parameters, published_names

TARGETS = ("head", "q", "k", "v", "mixer", "mlp")


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "oracles" / "pr1855.safetensors")


def model_at(oracle: dict[str, Tensor], fraction: float, *, segment: int = 2048, masked: bool = True) -> LM:
    """The model at a fraction of the run. masked: attention stays within segments."""
    masks = (part(SegmentMask, max_length=segment),) if masked else ()
    model = build(get_recipe("pr1855")().model.set("block.mixer.core.masks", masks), oracle)
    for module in model.modules():
        if isinstance(module, Scheduled):
            module.update(TrainingProgress(int(100 * fraction), 100, 0.0, 0.0))
    return model


@pytest.mark.parametrize(("case", "fraction"), [("loop_off", 0.34), ("loop_on", 0.36)])
def test_logits_of_rows_and_of_packed_documents(oracle: dict[str, Tensor], case: str, fraction: float) -> None:
    plain = model_at(oracle, fraction, masked=False)
    assert (plain(oracle["input_ids"]) - oracle[f"{case}/logits"]).abs().max() < 1e-4
    for name, segment in (("packed_doc", 2048), ("packed_cap32", 32)):
        packed = model_at(oracle, fraction, segment=segment)(oracle["packed_input_ids"])
        assert (packed - oracle[f"{case}/{name}/logits"]).abs().max() < 1e-4


@pytest.mark.parametrize(("case", "fraction"), [("loop_off", 0.34), ("loop_on", 0.36)])
def test_loss_and_gradients(oracle: dict[str, Tensor], case: str, fraction: float) -> None:
    model = model_at(oracle, fraction, segment=32)
    logits = model(oracle["packed_input_ids"])
    loss = F.cross_entropy(logits.flatten(0, 1), oracle["packed_target_ids"].flatten())
    assert abs(loss.item() - oracle[f"{case}/packed_cap32/loss"].item()) < 1e-5
    loss.backward()
    known = parameters(oracle, f"{case}/packed_cap32/grad/")
    assert len(known) >= (62 if case == "loop_off" else 128)
    for path, expected in known.items():
        found = model.get_parameter(path).grad
        assert found is not None
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max().clamp_min(1.0), path


def test_adapters(oracle: dict[str, Tensor]) -> None:
    """Logits, loss and gradients with adapters everywhere: one for each visit of a layer, one for the head."""
    model = model_at(oracle, 1.0, masked=False)
    adapters = BatchedLoRA(model, 2, TARGETS, rank=4, scale=36.0)
    assert (model(oracle["input_ids"]) - oracle["loop_on/ttt_zero/logits"]).abs().max() < 1e-4
    load_adapters(adapters, TARGETS, oracle, "lora/")
    logits = model(oracle["input_ids"])
    assert (logits - oracle["loop_on/ttt_lora/logits"]).abs().max() < 1e-4
    nats = F.cross_entropy(logits.flatten(0, 1), oracle["target_ids"].flatten())
    gradients = torch.autograd.grad(nats, adapters.leaves)
    names = published_names(adapters, TARGETS)
    compared = [name for name in names if f"lora_grad/{name}" in oracle]
    assert len(compared) == sum(key.startswith("lora_grad/") for key in oracle) > 10
    for name, found in zip(names, gradients, strict=True):
        if name in compared:
            expected = oracle[f"lora_grad/{name}"]
            assert (found - expected).abs().max() < 1e-4 * expected.abs().max().clamp_min(1.0), name
