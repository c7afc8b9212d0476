"""Quantization-aware training: equal to the stored values bit for bit, inactive in scoring, and switched on in time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append
from bitgolf.config.registry import import_all_parts
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.grids.clip import Clip, MaxClip, QuantileClip, SdClip
from bitgolf.grids.integer import MIN_STEP
from bitgolf.model.build import build_on_meta
from bitgolf.model.interfaces import WeightTransform
from bitgolf.model.linear import Embedding, Linear
from bitgolf.model.lm import LM
from bitgolf.model.part import Part, Scheduled
from bitgolf.model.qat import FakeQuant, QATTransform, QuantNoise, SoftRoundQuant
from bitgolf.optim.schedules import WarmdownFraction
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.runtime.progress import TrainingProgress
from helpers.examples import examples
from helpers.toy import built, toy_model

AT = BuildContext(vocab=64)
CLIPS: list[Spec[Clip]] = [
    part(MaxClip),
    part(SdClip, k=12.85),
    part(QuantileClip),
    part(SdClip, k=0.7),  # clips strongly: far from w, w + (stored - w) is rounded and differs from stored
    part(QuantileClip, quantile=0.4),
]
KINDS: list[Spec[WeightTransform]] = [
    part(FakeQuant, codec=part(IntRows, clip=part(MaxClip))),
    part(QuantNoise, codec=part(IntRows, bits=8, clip=part(MaxClip))),
    part(SoftRoundQuant, codec=part(IntRows, clip=part(MaxClip))),
]


def weight(rows: int = 24, columns: int = 32, *, scale: float = 0.3, seed: int = 0) -> Tensor:
    return scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def training(node: Spec[WeightTransform]) -> QATTransform:
    view = node(AT)
    assert isinstance(view, QATTransform) and view.training
    return view


# ---- equal to the export ---------------------------------------------------------------------------------------------


@settings(max_examples=examples(80), deadline=None)
@given(
    clip=st.sampled_from(CLIPS),
    bits=st.integers(2, 8),
    full=st.booleans(),
    old=st.booleans(),
    scale=st.sampled_from([0.0, 1e-8, 1e-3, 0.3, 5.0]),
    outlier=st.sampled_from([1.0, 1e3]),
    seed=st.integers(0, 1000),
)
@example(clip=CLIPS[-1], bits=4, full=False, old=False, scale=0.3, outlier=1e3, seed=1)
def test_fake_quantization_is_the_export_bit_for_bit(
    clip: Spec[Clip], bits: int, full: bool, old: bool, scale: float, outlier: float, seed: int
) -> None:
    options: dict[str, Any] = {"min_step": 1 / (2 ** (bits - 1) - 1)} if old else {}
    view = training(part(FakeQuant, codec=part(IntRows, bits=bits, clip=clip, full_range=full, **options)))
    codec = IntRows(bits=bits, clip=clip, full_range=full, min_step=options.get("min_step", MIN_STEP))
    w = weight(6, 40, scale=scale, seed=seed)
    w[:, 3] *= outlier
    exported = codec.decode(codec.encode(w), tuple(w.shape))
    assert view(w.requires_grad_()).detach().numpy().tobytes() == exported.numpy().tobytes()


def test_the_published_fake_quantization(shared: Path) -> None:
    """The banks of #1512 use steps max(a, 1) / 31. Our steps are rounded to float16, as stored; the codes are equal."""
    oracle = load_file(shared / "oracles" / "micro.safetensors")
    w, published = oracle["fakequant/w"], oracle["fakequant/bank_int6_1512"]
    assert (w.abs().amax(1) < 1).any() and (w.abs().amax(1) > 1).any(), "values on both sides of the minimum"
    seen = training(part(FakeQuant, codec=part(IntRows, bits=6, min_step=1 / 31, clip=part(MaxClip))))(w)
    step = (w.abs().amax(1, keepdim=True) / 31).clamp_min(1 / 31)
    codes = (published / step).round()
    assert torch.equal((seen / step).round(), codes)
    assert ((seen - published).abs() <= codes.abs() * step * 2.0**-11).all()


@pytest.mark.parametrize("full", [False, True])
def test_levels(full: bool) -> None:
    w = torch.rand(8, 4000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    view = training(part(FakeQuant, codec=part(IntRows, bits=6, clip=part(SdClip, k=1.0), full_range=full)))
    assert {len(row.unique()) for row in view(w)} == {63 + full}


@pytest.mark.parametrize("floor", [MIN_STEP, 1 / 31])
def test_what_was_rounded_stays(floor: float) -> None:
    view = training(part(FakeQuant, codec=part(IntRows, bits=6, min_step=floor, clip=part(MaxClip))))
    seen = view(weight(scale=0.5))
    assert torch.equal(view(seen), seen)


# ---- gradients -------------------------------------------------------------------------------------------------------


def test_the_gradient_is_that_of_the_rounded_weight() -> None:
    w = weight().requires_grad_()
    x = weight(5, 32, seed=1)
    view = training(part(FakeQuant, codec=part(IntRows, bits=3, clip=part(SdClip, k=1.5))))
    torch.tanh(x @ view(w).T).square().sum().backward()
    rounded = view(w).detach().requires_grad_()
    torch.tanh(x @ rounded.T).square().sum().backward()
    assert w.grad is not None and rounded.grad is not None and torch.equal(w.grad, rounded.grad)


def test_noise_is_uniform_within_half_a_step_and_its_gradient_ordinary() -> None:
    w = weight(8, 4000).requires_grad_()
    view = training(part(QuantNoise, codec=part(IntRows, bits=8, clip=part(MaxClip))))
    torch.manual_seed(0)
    seen = view(w)
    noise = ((seen - w) / (w.detach().abs().amax(1, keepdim=True) / 127)).detach()
    assert noise.abs().max() <= 0.501 and abs(noise.mean()) < 0.01
    assert noise.square().mean().item() == pytest.approx(1 / 12, rel=0.02)
    assert not torch.equal(view(w), seen), "the noise is drawn for each use"
    (seen * weight(8, 4000, seed=2)).sum().backward()
    assert w.grad is not None and torch.equal(w.grad, weight(8, 4000, seed=2))


def test_soft_rounding_has_the_published_formula_and_its_own_gradient() -> None:
    w = weight(4, 50).requires_grad_()
    view = cast(SoftRoundQuant, training(part(SoftRoundQuant, codec=part(IntRows, bits=5, clip=part(SdClip, k=2.0)))))
    view.alpha.fill_(3.0)
    seen = view(w)
    seen.sum().backward()
    step = view.step_sizes(w).double().numpy()
    u = w.detach().double().numpy() / step
    gate = 1 / (1 + np.exp(-3.0 * (u - np.floor(u) - 0.5)))
    free = np.abs(np.floor(u) + gate) < 15
    assert 0 < (~free).sum() < free.sum()
    assert np.abs(seen.detach().numpy() - np.clip(np.floor(u) + gate, -15, 15) * step).max() < 1e-6
    assert w.grad is not None
    assert np.abs(w.grad.numpy() - free * 3.0 * gate * (1 - gate)).max() < 1e-5


def test_soft_rounding_ends_as_rounding() -> None:
    w, view = weight(), cast(SoftRoundQuant, training(part(SoftRoundQuant, codec=part(IntRows, clip=part(MaxClip)))))
    view.alpha.fill_(1e6)
    assert (view(w) - training(part(FakeQuant, codec=part(IntRows, clip=part(MaxClip))))(w)).abs().max() < 1e-6


def test_soft_rounding_hardens_along_the_run() -> None:
    view = cast(
        SoftRoundQuant,
        training(
            part(SoftRoundQuant, codec=part(IntRows, clip=part(MaxClip)), alpha_start=1.0, alpha_end=16.0, since=0.5)
        ),
    )
    assert view.alpha == 16.0, "a new part is in its state at the end"
    found = []
    for step in (0, 50, 75, 100):
        view.update(TrainingProgress(step, 100, 0.0, 0.0))
        found.append(view.alpha.item())
    assert found == [1.0, 1.0, 8.5, 16.0]


# ---- where and when --------------------------------------------------------------------------------------------------


def test_what_is_for_training_alone_is_absent_when_scored() -> None:
    w = weight()
    classes = [
        c
        for c in import_all_parts().values()
        if issubclass(c, Part) and c.training_only and issubclass(c, WeightTransform)
    ]
    assert {FakeQuant, QuantNoise, SoftRoundQuant} == set(classes)
    for view in (node(AT) for node in KINDS):
        assert not torch.equal(view.train()(w), w) and view.eval()(w) is w


@pytest.mark.parametrize("node", KINDS, ids=repr)
def test_before_its_moment_a_view_is_absent(node: Spec[WeightTransform]) -> None:
    assert training(node).phase_starts == ()
    w, late = weight(), training(node.replace(since=0.25))
    assert late.phase_starts == (0.25,) and late.active
    late.update(TrainingProgress(24, 100, 0.0, 0.0))
    assert late(w) is w
    late.update(TrainingProgress(25, 100, 0.0, 0.0))
    assert not torch.equal(late(w), w)


def test_a_moment_outside_the_run_is_refused() -> None:
    for since in (-0.1, 1.0):
        with pytest.raises(RecipeError, match=r"since: must be at least 0 and below 1"):
            part(FakeQuant, codec=part(IntRows, clip=part(MaxClip)), since=since)(AT)


def test_a_threshold_of_the_learning_rate_as_a_moment() -> None:
    warmdown = WarmdownFraction(fraction=0.5)
    since = 1 - 0.15 * 0.5
    before, after = (warmdown.value(TrainingProgress(round(1000 * since) + d, 1000, 0.0, 0.0)) for d in (-1, 1))
    assert after < 0.15 < before


def test_views_act_on_matrices_and_on_embeddings() -> None:
    view = (part(FakeQuant, codec=part(IntRows, bits=3, clip=part(MaxClip))),)
    context = BuildContext(vocab=10, dim=8).for_matrix(8, 6)
    matrix, table = part(Linear, weight_transforms=view)(context), part(Embedding, weight_transforms=view)(context)
    codec = IntRows(bits=3, clip=part(MaxClip))
    x, ids = weight(4, 8), torch.arange(10)
    assert torch.equal(matrix(x), x @ codec.fake_quantize(matrix.weight).T)
    assert torch.equal(table(ids), codec.fake_quantize(table.weight))
    assert torch.equal(table.tied_logits(x), x @ table(ids).T)
    lookups = part(Embedding, weight_transforms=view, transform_head=False)(context)
    assert torch.equal(lookups.tied_logits(x), x @ lookups.weight.T) and not torch.equal(lookups(ids), lookups.weight)
    assert torch.equal(matrix.eval()(x), x @ matrix.weight.T)


def viewed(node: Spec[WeightTransform]) -> Spec[LM]:
    return toy_model().edit("block.mlp.linear", append(weight_transforms=node))


@pytest.mark.parametrize("node", KINDS, ids=repr)
def test_the_compiled_switch_changes_the_outputs(node: Spec[WeightTransform]) -> None:
    torch._dynamo.reset()
    model = built(viewed(node.replace(since=0.5)).set("layers", 1)).train()
    clocked = [m for m in model.modules() if isinstance(m, Scheduled) and m.phase_starts]
    graphs = itertools.count()
    compiled = torch.compile(model, fullgraph=True, backend=counting(graphs))
    ids = torch.randint(2, 64, (2, 16), generator=torch.Generator().manual_seed(0))

    def at(step: int) -> tuple[Tensor, Tensor]:
        for m in clocked:
            m.update(TrainingProgress(step, 100, 0.0, 0.0))
        torch.manual_seed(step)
        return compiled(ids), seeded(model, ids, step)

    outputs = [at(step) for step in (0, 10, 50, 80, 10, 80)]
    for got, eager in outputs:
        assert (got - eager).abs().max() < 1e-5
    off, same_off, on, later, off_again, later_again = (got for got, _ in outputs)
    assert torch.equal(off, same_off) and torch.equal(off, off_again) and torch.equal(later, later_again)
    assert (on - off).abs().max() > 1e-4
    assert next(graphs) == 2, "one graph per phase: a changing alpha does not cause a recompilation"


def seeded(model: LM, ids: Tensor, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return model(ids)


def counting(graphs: itertools.count[int]) -> Callable[..., Any]:
    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        next(graphs)
        return graph.forward

    return backend


def test_annealing_is_no_weight_and_survives_a_model_without_values() -> None:
    model = build_on_meta(viewed(part(SoftRoundQuant, codec=part(IntRows, clip=part(MaxClip)))), 64)
    assert not any("alpha" in name for name in model.state_dict())
    full = viewed(part(SoftRoundQuant, codec=part(IntRows, clip=part(MaxClip))))(BuildContext(vocab=64))
    model.load_state_dict(full.state_dict(), assign=True)
    moved: nn.Module = model.to("cpu").eval()
    ids = torch.arange(2, 12)[None]
    assert torch.equal(moved(ids), full.eval()(ids))
    assert [m.alpha.item() for m in moved.modules() if isinstance(m, SoftRoundQuant)] == [16.0] * 6
