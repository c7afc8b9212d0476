"""RoPE scaling, norms scaled by depth, and residual branches scaled during warmup."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.attention.rope_scaling import NTKScaling, RoPEScaling, YaRNScaling
from bitgolf.model.block import Block
from bitgolf.model.build import build_on_meta
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.lm import LM
from bitgolf.model.residual import DepthScaledNorm, ResidualWarmup, RMSNorm
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.phases import Phases
from helpers.toy import VOCAB, built, toy_model

torch.set_num_threads(1)
HERE = torch.device("cpu")
SCALINGS = [part(NTKScaling), part(YaRNScaling)]


def rope(width: int, scaling: Spec[RoPEScaling] | None = None, *, base: float = 1e4, dims: int = 0) -> RoPE:
    return RoPE(BuildContext(vocab=8, dim=2 * width, heads=2), base=base, dims=dims, scaling=scaling)


def context(length: int) -> ForwardContext:
    return ForwardContext(torch.zeros(1, length, dtype=torch.int64))


# ---- rotary positions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "length", "base"), [(64, 2048, 20452), (16, 2048, 22082), (16, 4096, 48761)])
def test_published_effective_bases(width: int, length: int, base: int) -> None:
    assert round(NTKScaling(original_length=1024, length=length).scaled_base(10000.0, width)) == base


@pytest.mark.parametrize("cls", [NTKScaling, YaRNScaling])
@pytest.mark.parametrize("length", [1, 1000, 1024])
def test_up_to_the_reference_length_it_is_plain_rope_bit_for_bit(cls: type[RoPEScaling], length: int) -> None:
    for dims in (2, 16, 64):
        scaled = rope(64, part(cls, original_length=1024, length=length), dims=dims).cos_sin(context(300))
        for ours, plain in zip(scaled, rope(64, dims=dims).cos_sin(context(300)), strict=True):
            assert torch.equal(ours, plain)


@pytest.mark.parametrize("width", [4, 16, 64])
def test_ntk_leaves_the_fastest_pair_and_slows_the_slowest_by_the_stretch(width: int) -> None:
    plain = rope(width).frequencies(HERE).double()
    ratio = plain / rope(width, part(NTKScaling, length=3072)).frequencies(HERE)
    assert ratio[0] == 1 and ratio[-1].item() == pytest.approx(3, rel=1e-5)
    assert (ratio.diff() > 0).all()


def test_ntk_of_a_single_pair_changes_nothing() -> None:
    assert rope(2, part(NTKScaling)).frequencies(HERE).tolist() == [1.0]


@pytest.mark.parametrize("width", [8, 16, 96])
def test_yarn_against_its_formula(width: int) -> None:
    expected = []
    for i in range(width // 2):
        ramp = min(1.0, max(0.0, (2 * i / width - 0.25) / 0.75))
        expected.append(5000.0 ** (-2 * i / width) / (1 + ramp * (2048 / 1024 - 1)))
    ours = rope(width, part(YaRNScaling), base=5e3).frequencies(HERE)
    assert torch.allclose(ours.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)


def test_yarn_leaves_the_fast_quarter_alone_and_slows_the_slowest_up_to_the_stretch() -> None:
    ratio = rope(1024).frequencies(HERE) / rope(1024, part(YaRNScaling)).frequencies(HERE)
    assert (ratio[:129] == 1).all() and (ratio[129:] > 1).all()
    assert ratio[-1].item() == pytest.approx(2, abs=0.005) and ratio.max() <= 2


@pytest.mark.parametrize("scaling", SCALINGS)
def test_stretched_positions_still_depend_on_distance_only(scaling: Spec[RoPEScaling]) -> None:
    q, k = (torch.randn(1, 1, 1, 16).expand(1, 40, 1, 16) for _ in range(2))
    turned_q, turned_k = rope(16, scaling, dims=8)(q, k, context(40))
    products = (turned_q[0, :, 0] @ turned_k[0, :, 0].T).double()
    for distance in range(40):
        diagonal = products.diagonal(distance)
        assert (diagonal - diagonal[0]).abs().max() < 1e-4
    assert torch.equal(turned_q[..., 8:], q[..., 8:])


def test_ropes_that_differ_in_scaling_alone_share_no_table() -> None:
    nodes = [None, part(NTKScaling), part(YaRNScaling), part(NTKScaling, length=4096)]
    q, k, shared = torch.randn(1, 6, 2, 16), torch.randn(1, 6, 2, 16), context(6)
    together = [rope(16, node)(q, k, shared)[0] for node in nodes]
    for node, ours in zip(nodes, together, strict=True):
        assert torch.equal(ours, rope(16, node)(q, k, context(6))[0])
        assert sum(torch.equal(ours, other) for other in together) == 1


@pytest.mark.parametrize("lengths", [(0, 2048), (1024, 0), (-1, 5)])
def test_lengths_that_are_none_are_errors(lengths: tuple[int, int]) -> None:
    with pytest.raises(RecipeError, match=r"length: must be from 1 to 16,777,216, got"):
        rope(16, part(NTKScaling, original_length=lengths[0], length=lengths[1]))


# ---- norms scaled by depth ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1, 3, 8])
def test_depth_scaled_norm_against_its_formula(layer: int) -> None:
    x = 3 * torch.randn(2, 5, 32)
    ours = DepthScaledNorm(BuildContext(vocab=8, layer=layer))(x)
    expected = x.double() / x.double().square().mean(-1, keepdim=True).sqrt() / (layer + 1) ** 0.5
    assert (ours - expected).abs().max() < 1e-5
    assert torch.equal(ours, RMSNorm(BuildContext(vocab=8))(x)) is (layer == 0)


def seen(model: LM, ids: Tensor, path: str) -> tuple[Tensor, ...]:
    """The inputs of the module at `path` in a forward pass."""
    inputs: list[tuple[Tensor, ...]] = []
    hook = model.get_submodule(path).register_forward_hook(lambda m, i, o: inputs.append(i))
    with torch.no_grad():
        model(ids)
    hook.remove()
    return inputs[0]


def test_queries_and_keys_are_blind_to_the_scale_values_and_mlp_are_not() -> None:
    """Both norms of a block are scaled. The branches are zero, so that only the scale of the layer itself matters."""
    ids = torch.randint(2, VOCAB, (2, 12), generator=torch.Generator().manual_seed(0))
    models = [built(toy_model().set("block.norm", part(norm))) for norm in (RMSNorm, DepthScaledNorm)]
    for model in models:
        for block in model.blocks:
            cast(Block, block).mixer_scale[0].weight.data.zero_()  # type: ignore[union-attr,operator]
            cast(Block, block).mlp_scale[0].weight.data.zero_()  # type: ignore[union-attr,operator]
    for layer in range(3):
        plain, scaled = (seen(m, ids, f"blocks.{layer}.mixer.core") for m in models)
        assert torch.allclose(plain[0], scaled[0], atol=1e-4) and torch.allclose(plain[1], scaled[1], atol=1e-4)
        assert torch.allclose(plain[2] / (layer + 1) ** 0.5, scaled[2], atol=1e-5)
        plain, scaled = (seen(m, ids, f"blocks.{layer}.mlp") for m in models)
        assert torch.allclose(plain[0] / (layer + 1) ** 0.5, scaled[0], atol=1e-5)


def test_the_last_norm_has_no_depth() -> None:
    with pytest.raises(RecipeError, match=r"must be the norm of a block"):
        toy_model().replace(norm=part(DepthScaledNorm))(BuildContext(vocab=VOCAB))


# ---- progressive residuals -----------------------------------------------------------------------------------------


def now(step: int) -> TrainingProgress:
    return TrainingProgress(step, 1000, 0.0, 0.0)


@pytest.mark.parametrize(
    ("layer", "step", "factor"),
    [(0, 0, 0.0), (0, 15, 0.5), (0, 30, 1.0), (0, 999, 1.0), (2, 30, 1 / 3), (2, 89, 89 / 90), (2, 90, 1.0)],
)
def test_branches_fade_in_low_layers_first(layer: int, step: int, factor: float) -> None:
    branch, y = ResidualWarmup(BuildContext(vocab=8, layer=layer)), torch.randn(2, 3, 8)
    assert torch.equal(branch(y), y), "a new part is in its state at the end"
    branch.update(now(step))
    assert torch.allclose(branch(y), y * factor, atol=1e-6)


def progressive() -> Spec[LM]:
    return toy_model().edit(
        "block", append(residual_scale=part(ResidualWarmup, warmup_steps=4, warmup_steps_per_layer=2))
    )


def test_at_step_0_all_blocks_are_silent_and_later_they_speak() -> None:
    ids = torch.randint(2, VOCAB, (2, 12))
    model, full = built(progressive()), built(toy_model())
    phases = Phases(model)
    assert phases.starts == [], "one graph for the whole run"
    phases.advance(now(0), lambda: 0.0)
    context = model.forward_context(ids)
    silent = model.hidden(context)
    assert context.x0 is not None
    x = context.x0
    for block in model.blocks:
        x = cast(Block, block).pre_block[0](x, context)
    assert torch.allclose(silent, model.norm(x), atol=1e-5)
    phases.advance(now(3), lambda: 0.0)
    assert (model.hidden(model.forward_context(ids)) - silent).abs().max() > 1e-2
    phases.advance(now(8), lambda: 0.0)
    assert torch.equal(model(ids), full(ids))


def test_a_compiled_graph_reads_the_factor_as_data() -> None:
    graphs: list[nn.Module] = []

    def count(graph: nn.Module, inputs: list[Tensor]) -> nn.Module:
        graphs.append(graph)
        return graph

    ids = torch.randint(2, VOCAB, (2, 12))
    model = built(progressive())
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=count)  # type: ignore[arg-type]
    for step in (0, 1, 5, 20):
        Phases(model).advance(now(step), lambda: 0.0)
        assert torch.allclose(compiled(ids), model(ids), atol=1e-5), step
    assert len(graphs) == 1


def test_an_artifact_holds_no_factor_and_is_read_with_the_whole_branch() -> None:
    ids = torch.randint(2, VOCAB, (2, 12))
    model = built(progressive())
    whole = model(ids)
    Phases(model).advance(now(1), lambda: 0.0)
    weights = dict(model.named_parameters())
    assert model.state_dict().keys() == weights.keys()
    read = build_on_meta(progressive(), VOCAB)
    read.load_state_dict(weights, assign=True)
    assert torch.equal(read(ids), whole)


@pytest.mark.parametrize(("first", "per_layer"), [(0, 30), (30, -1)])
def test_fading_in_over_nothing_is_an_error(first: int, per_layer: int) -> None:
    with pytest.raises(RecipeError, match=r"warmup_steps must be at least 1 and .*, got"):
        ResidualWarmup(BuildContext(vocab=8, layer=0), warmup_steps=first, warmup_steps_per_layer=per_layer)


def test_scaled_rope_in_a_model_acts() -> None:
    ids = torch.randint(2, VOCAB, (2, 12))
    plain = built(toy_model())
    node = part(RoPE, scaling=part(NTKScaling))
    stretched = built(toy_model().edit(Attention, lambda a: a.replace(qk=(a.kwargs["qk"][0], node, a.kwargs["qk"][2]))))
    assert (plain(ids) - stretched(ids)).abs().max() > 1e-4
