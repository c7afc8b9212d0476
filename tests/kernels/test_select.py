"""Fused modules are selected by parity and speed and logged. Training with them equals training with the references."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append, replace
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError, Unsupported
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.cores.sdpa import DocumentMask, SDPACore, SlidingWindowMask
from bitgolf.model.attention.cores.sdpa_backend import to_autocast_dtype
from bitgolf.model.attention.exclusive import ExclusiveSelfAttention
from bitgolf.model.attention.gates import (
    AttentionGate,
    DenseAttentionGate,
    NarrowAttentionGate,
    QueryAttentionGate,
    SparseAttentionGate,
)
from bitgolf.model.interfaces import AttentionOutputPart
from bitgolf.model.lm import LM
from bitgolf.model.objectives import CrossEntropy
from bitgolf.pipeline.training import TrainingJob, train_rank
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from bitgolf.training.kernels import select
from bitgolf.training.kernels.fused import (
    FusedExclusiveGate,
    FusedMLP,
    FusedSoftcappedCrossEntropy,
    ReferenceExclusiveGate,
    sigmoid_scale_and_gain,
)
from helpers.kernel_selection import (
    CPU,
    judge_on_cpu,
    leaky_toy,
    loss_and_gradients,
    make_task,
    randomize,
)
from helpers.toy import VOCAB, built, toy_model, toy_recipe
from helpers.toy_training import make_data


class ScaledOutput(AttentionOutputPart):
    """Another part of `post_attention`, which multiplies by 2."""

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()

    def forward(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        return 2 * y


def test_swapped_in_they_train_the_same_and_leave_the_model_plain(
    rows: tuple[Tensor, Tensor], triton_device: torch.device
) -> None:
    if triton_device.type != "cpu":
        pytest.skip("the interpreter's test; the GPU has its own")
    task = make_task()
    before, logits, kinds = loss_and_gradients(task, rows), task.model(rows[0]), {type(m) for m in task.modules()}
    random = torch.get_rng_state()
    choice, verdicts = judge_on_cpu(task, rows)
    taken = {what: verdict.implementation for what, verdict in verdicts.items()}
    assert taken == {
        "softcapped cross-entropy": "fused",
        "MLP with SquaredLeakyReLU": "fused",
        "attention": "FlashAttention of PyTorch",
    }
    assert isinstance(task.objective, FusedSoftcappedCrossEntropy)
    assert all(isinstance(block.mlp, FusedMLP) for block in task.model.blocks)
    assert torch.equal(torch.get_rng_state(), random)
    after = loss_and_gradients(task, rows)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[k], after[k], rtol=1e-4, atol=1e-6) for k in before)
    assert torch.allclose(task.model(rows[0]), logits, atol=1e-5)
    choice.restore()
    assert {type(m) for m in task.modules()} == kinds
    assert torch.equal(task.model(rows[0]), logits)


def test_exclusive_attention_and_its_gate_become_one_part_of_the_chain(
    rows: tuple[Tensor, Tensor], triton_device: torch.device
) -> None:
    """The parts before and after them stay in the chain, and the gate's weight gets the same gradient."""
    if triton_device.type != "cpu":
        pytest.skip("the interpreter's test; the GPU has its own")
    after = (
        part(ScaledOutput),
        part(ExclusiveSelfAttention),
        part(SparseAttentionGate, scale=0.5),
        part(NarrowAttentionGate),
    )
    task = make_task(leaky_toy().set("layers", 1).edit(Attention, replace(post_attention=after)))
    randomize(task)
    chain, before = task.model.blocks[0].mixer.post_attention, loss_and_gradients(task, rows)  # type: ignore[union-attr]
    choice, verdicts = judge_on_cpu(task, rows)
    assert verdicts["ExclusiveSelfAttention, SparseAttentionGate"].implementation == "fused"
    kinds = [type(p) for p in task.model.blocks[0].mixer.post_attention]  # type: ignore[union-attr]
    assert kinds == [ScaledOutput, FusedExclusiveGate, NarrowAttentionGate]
    after_swap = loss_and_gradients(task, rows)
    choice.restore()
    assert task.model.blocks[0].mixer.post_attention is chain  # type: ignore[union-attr]
    gate = "model.blocks.0.mixer.post_attention.2.weight"
    assert before[gate].norm() > 0
    swapped_gate = after_swap["model.blocks.0.mixer.post_attention.1.gate.weight"]
    assert torch.allclose(swapped_gate, before[gate], rtol=1e-3, atol=1e-6)
    assert torch.allclose(after_swap["loss"], before["loss"], rtol=1e-5)


def test_a_gate_of_another_form_and_a_cap_out_of_range_are_refused() -> None:
    place = BuildContext(vocab=VOCAB, dim=32, heads=4, kv_heads=2)
    assert [
        sigmoid_scale_and_gain(g)
        for g in (SparseAttentionGate(place, scale=0.5), NarrowAttentionGate(place), DenseAttentionGate(place))
    ] == [
        (0.5, 1.0),
        (1.0, 2.0),
        (1.0, 1.0),
    ]
    with pytest.raises(Unsupported, match="AttentionGate is not of the form"):
        FusedExclusiveGate(ReferenceExclusiveGate(ExclusiveSelfAttention(place), AttentionGate(place, 12)))
    with pytest.raises(Unsupported, match="the gate has a bias"):
        sigmoid_scale_and_gain(DenseAttentionGate(place, bias=4.0))
    with pytest.raises(Unsupported, match="QueryAttentionGate is not of the form"):
        sigmoid_scale_and_gain(QueryAttentionGate(place))
    with pytest.raises(Unsupported, match="a softcap of 65 is above 64"):
        FusedSoftcappedCrossEntropy(65.0)


def test_the_swapped_task_holds_the_full_graph(rows: tuple[Tensor, Tensor], triton_device: torch.device) -> None:
    task = make_task(leaky_toy().set("layers", 1)).to(triton_device)
    rows = rows[0].to(triton_device), rows[1].to(triton_device)
    expected = loss_and_gradients(task, rows)
    for block in task.model.blocks:
        block.mlp = FusedMLP(block.mlp)  # type: ignore[arg-type]
    task.objective = FusedSoftcappedCrossEntropy(20.0)
    torch._dynamo.reset()
    loss = torch.compile(task, fullgraph=True, backend="eager")(*rows)
    assert torch.allclose(loss, expected["loss"], atol=1e-5)


def test_twins_compute_in_the_type_of_autocast() -> None:
    x = torch.randn(2, 3)
    compiled = torch.compile(lambda x: to_autocast_dtype(x, x, x)[2] * 1, fullgraph=True, backend="eager")
    assert compiled(x).dtype is torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert compiled(x).dtype is torch.bfloat16


def test_sites_are_those_combinations_that_have_twins() -> None:
    windowed = leaky_toy().edit(SDPACore, append(masks=part(SlidingWindowMask, left=3)))
    names = [site.label for site in select.kernel_candidates(make_task(windowed), compiled=True)]
    assert sorted(set(names)) == [
        "MLP with SquaredLeakyReLU",
        "attention with SlidingWindowMask(3)",
        "softcapped cross-entropy",
    ]
    uncapped = toy_model().set("head.logits_transforms", ())  # relu^2, no cap
    assert {site.label for site in select.kernel_candidates(make_task(uncapped), compiled=True)} == {"attention"}


@pytest.mark.parametrize(("mode", "why"), [("auto", "no CUDA device"), ("plain", "train.kernels")])
def test_plain_is_said_with_its_reason(mode: str, why: str, rows: tuple[Tensor, Tensor]) -> None:
    task = make_task()
    lines = select.select_kernels(task, rows, CPU, mode=mode, compiled=False, bos=1).summary
    assert [line.partition(": plain (")[0] for line in lines] == [
        "softcapped cross-entropy",
        "attention",
        "MLP with SquaredLeakyReLU",
    ]
    assert all(why in line for line in lines)
    assert type(task.objective) is CrossEntropy


def test_insisting_on_what_is_not_able_is_an_error_with_the_reason(rows: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(RecipeError, match="no fused kernel for softcapped cross-entropy: no CUDA device") as caught:
        select.select_kernels(make_task(), rows, CPU, mode="fast", compiled=False, bos=1)
    assert caught.value.where == "train.kernels"


def test_a_bare_model_is_served_without_gradients_and_left_as_it_was(
    rows: tuple[Tensor, Tensor], triton_device: torch.device
) -> None:
    if triton_device.type != "cpu":
        pytest.skip("the interpreter's test; the GPU has its own")
    model = built(leaky_toy())
    model.requires_grad_(False)
    kinds, logits = [type(m) for m in model.modules()], model(rows[0])
    choice, verdicts = judge_on_cpu(model, rows[:1], backward=False)
    assert {what: v.implementation for what, v in verdicts.items()} == {
        "MLP with SquaredLeakyReLU": "fused",
        "attention": "FlashAttention of PyTorch",
    }
    assert torch.allclose(model(rows[0]), logits, atol=1e-5)
    choice.restore()
    assert [type(m) for m in model.modules()] == kinds


def recipe() -> Spec[Recipe]:
    return toy_recipe(steps=2)


def test_a_run_says_and_stores_its_kernels(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    log = RunLog(tmp_path / "run", quiet=True)
    train_rank(TrainingJob(recipe=recipe(), data=data, folder=tmp_path / "run"), log)
    log.close()
    kernels = json.loads((tmp_path / "run" / "train.json").read_text())["kernels"]
    said = (tmp_path / "run" / "run.log").read_text()
    assert kernels
    assert all(f"kernels: {line}" in said for line in kernels)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_the_device_the_fused_kernels_are_taken_and_train_the_same() -> None:
    from bitgolf.runtime.device import select_device

    device = select_device()
    spec = leaky_toy().edit(LM, replace(dim=128)).edit(SDPACore, append(masks=part(DocumentMask)))
    spec = spec.edit(Attention, replace(post_attention=(part(ExclusiveSelfAttention), part(SparseAttentionGate))))
    task = make_task(spec).to(device.torch_device)
    ids = torch.randint(2, VOCAB, (2, 129), device=device.torch_device)
    ids[:, 40] = 1
    rows = ids[:, :-1], ids[:, 1:]
    with device.autocast():
        before = loss_and_gradients(task, rows)
        lines = select.select_kernels(task, rows, device, mode="fast", compiled=True, bos=1).summary
        after = loss_and_gradients(task, rows)
    assert any("softcapped cross-entropy: fused" in line for line in lines), lines
    gaps = {k: ((before[k] - after[k]).norm() / before[k].norm().clamp_min(1e-6)).item() for k in before}
    assert max(gaps.values()) < 5e-2, gaps
