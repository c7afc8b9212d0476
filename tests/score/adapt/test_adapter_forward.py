"""Compiled LoRA adaptation equals eager adaptation, and does not make the host wait for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bitgolf.config.spec import Spec, part
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.lm import LM
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.adapt.adapter_forward import AdapterBatch, AdapterForward, CompiledAdapterForward
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.lora_player import LoRAPlayer
from bitgolf.score.adapt.loss import IGNORE_INDEX, CompiledLoss, EagerLoss
from bitgolf.score.execution import compiled_function
from bitgolf.score.execution.compiled_function import CompiledFunction
from bitgolf.score.player import ScoringBatch
from bitgolf.score.referee import score
from bitgolf.score.text import TokenizedText, append_final_bos
from helpers.toy import VOCAB, built, toy_model

LOOPED = (
    toy_model()
    .set("layers", 2)
    .set("layer_schedule", part(UNet, order=part(LoopedLayers, first_layer=1, last_layer=1, since=(0.0,))))
)
ONE_LAYER = toy_model().set("layers", 1)
EVERYWHERE = ("head", "q", "k", "v", "mixer", "mlp")


def whole(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """Compile with the forward and backward traced as on CUDA, but without generated code."""
    return torch.compile(function, fullgraph=True, dynamic=False, backend="aot_eager")


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch._dynamo.reset()
    monkeypatch.setattr(compiled_function, "compile_graph", whole)
    yield


def text(*, seed: int = 0) -> TokenizedText:
    rng = np.random.default_rng(seed)
    documents = [np.append(1, rng.choice(rng.integers(2, VOCAB, 6), n)) for n in (30, 9, 47, 1, 22, 38, 16)]
    return TokenizedText(append_final_bos(np.concatenate(documents), 1), 500)


def lora(**changes: Any) -> DocumentLoRA:
    settings = {"window": 16, "stride": 5, "rows": 3, "rank": 2, "lr": 0.02, "target_modules": EVERYWHERE} | changes
    return DocumentLoRA(**settings)


def compiled(method: DocumentLoRA, spec: Spec[LM] = LOOPED) -> LoRAPlayer:
    """A player with the compiled forward that is used on CUDA."""
    p = LoRAPlayer(built(spec).double(), VOCAB, select_device(), method)
    p.forward = CompiledAdapterForward(
        p.model, p.device, p.adapters, window=method.window, columns=method.stride, distributed=SINGLE_PROCESS
    )
    p.adam.update = CompiledFunction(p.adam.update, torch.device("cpu"))
    return p


@pytest.mark.parametrize(
    ("settings", "at_once"),
    [
        ({}, 64),
        pytest.param({}, 32, marks=pytest.mark.exhaustive),
        ({"rank": 0, "target_modules": ("head",)}, 16),
        pytest.param({"steps": 2, "rows": 1}, 64, marks=pytest.mark.exhaustive),
        pytest.param({"keep_a": True}, 16, marks=pytest.mark.exhaustive),
    ],
)
def test_graphs_of_few_shapes_score_and_learn_alike(traced: None, settings: dict[str, Any], at_once: int) -> None:
    """With three rows, two rows or one row per micro batch."""
    method, found = lora(**settings), list[np.ndarray]()
    spec = LOOPED if method.rank else ONE_LAYER
    plain, fixed = LoRAPlayer(built(spec).double(), VOCAB, select_device(), method), compiled(method, spec)
    fixed.forward.set_max_tokens(at_once)
    for p in (plain, fixed):
        charges = np.zeros(text().num_targets)
        score(p, text(), method, charges=charges)
        found.append(charges)
        p.close()
    assert found[1] == pytest.approx(found[0], rel=1e-9)
    assert np.abs(found[0] - charged_still(method, spec)).max() > 1e-3, "the adapters must change the score"


def charged_still(method: DocumentLoRA, spec: Spec[LM]) -> np.ndarray:
    charges, still = np.zeros(text().num_targets), method.without_adaptation()()
    score(
        still.make_player(built(spec).double(), VOCAB, select_device(), SINGLE_PROCESS),
        text(),
        still,
        charges=charges,
    )
    return charges


def test_shapes_are_one_number_of_rows_and_columns_and_four_lengths() -> None:
    method = lora(window=512, stride=4)
    p, seen = compiled(method), set[tuple[int, ...]]()
    p.forward.run = lambda *x: seen.add(tuple(n for t in x for n in t.shape)) or torch.zeros(3, 4, VOCAB)
    for length in (1, 63, 64, 65, 200, 256, 257, 511, 512):
        windows = [(torch.zeros(length, dtype=torch.int64), 1), (torch.arange(0), 0), (torch.ones(1).long(), 1)]
        assert p.predict(ScoringBatch.collate(windows, torch.zeros(3, dtype=torch.bool))).shape == (2, VOCAB)
    assert seen == {(3, length, 3, 4) for length in (64, 128, 256, 512)}


def test_what_is_shown_of_a_block() -> None:
    windows = [(torch.arange(10, 16), 2), (torch.arange(0), 0), (torch.arange(20, 23), 3)]
    block = ScoringBatch.collate(windows, torch.zeros(3, dtype=torch.bool))
    for rows in (torch.tensor([True, False, True]), torch.tensor([True, True, True])):
        shown = AdapterBatch.from_batch(block, rows, 3)
        states = shown.tokens.gather(1, shown.target_columns).flatten()[shown.target_indices]
        assert states.tolist() == [14, 15, 20, 21, 22]
        assert shown.tokens.shape == (int(rows.sum()), 6) and shown.target_columns.shape == (int(rows.sum()), 3)


class Waits(TorchDispatchMode):
    """Records operators on floating-point tensors that make the host wait for a CUDA device."""

    def __init__(self) -> None:
        super().__init__()
        self.found = list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        indexed = name in ("index", "index_put", "index_put_")
        masks = [x for x in (args[1] if indexed else ()) if isinstance(x, Tensor)]
        if any(isinstance(x, Tensor) and x.is_floating_point() for x in args) and (
            name in ("_local_scalar_dense", "nonzero") or any(x.dtype is torch.bool for x in masks)
        ):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_neither_predicting_nor_learning_waits_for_the_device() -> None:
    method = lora()
    p, rows = LoRAPlayer(built(LOOPED), VOCAB, select_device(), method), 3
    block = ScoringBatch.collate([(torch.arange(2, 12), 5)] * rows, torch.tensor([True, False, True]))
    with Waits() as waits:
        p.predict(block)
        p.observe(block, torch.arange(2, 17))
    assert not waits.found
    with Waits() as waits:  # a boolean index: checks that `Waits` records one
        mask = torch.tensor([True, False, True])
        p.adapters.values[mask] = p.adapters.values[mask]
    assert waits.found


def test_the_reference_reads_live_rows_alone() -> None:
    p, seen = LoRAPlayer(built(LOOPED), VOCAB, select_device(), lora()), list[tuple[int, ...]]()
    assert type(p.forward) is AdapterForward
    inner = p.forward.run
    p.forward.run = lambda *x: seen.append(tuple(x[0].shape)) or inner(*x)
    p.predict(
        ScoringBatch.collate(
            [(torch.arange(2, 12), 5), (torch.arange(0), 0), (torch.arange(2, 6), 4)], torch.zeros(3).bool()
        )
    )
    assert seen == [(2, 10)]


@pytest.mark.parametrize(
    ("rows", "length", "at_once"), [(5, 70, 256), pytest.param(3, 128, 128, marks=pytest.mark.exhaustive), (2, 3, 64)]
)
def test_the_nats_of_padded_rows_are_those_of_their_targets(traced: None, rows: int, length: int, at_once: int) -> None:
    model, generator = built(ONE_LAYER).double(), torch.Generator().manual_seed(0)
    inputs = torch.randint(2, VOCAB, (rows, length), generator=generator)
    targets = torch.randint(2, VOCAB, (rows, length), generator=generator)
    targets[-1, length // 2 :] = IGNORE_INDEX
    params, found = list(model.parameters()), list[list[Tensor]]()
    for nats in (EagerLoss(model, select_device()), CompiledLoss(model, select_device(), at_once, 128)):
        losses = [(loss.detach(), *torch.autograd.grad(loss, params)) for loss in nats(inputs, targets)]
        found.append([torch.stack(own).sum(0) for own in zip(*losses, strict=True)])
    assert found[0][0] > 0
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(*found, strict=True))
