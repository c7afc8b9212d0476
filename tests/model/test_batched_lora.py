"""LoRA adapters with separate factors for each row of a batch: attached to a model and detached from it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.model.attention.attention import Attention
from bitgolf.model.batched_lora import BatchedLoRA
from bitgolf.model.block import Block
from bitgolf.model.decoding.incremental import IncrementalDecoder
from bitgolf.model.factored_embedding import FactoredEmbedding
from bitgolf.model.head import UntiedHead
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.layer_schedule import SequentialLayers, UNet
from bitgolf.model.linear import Linear
from bitgolf.model.lm import LM
from bitgolf.model.parameters import parameter_roles, set_requires_grad
from bitgolf.model.residual_topology import ParallelResidual, ParallelTwoLaneResidual
from helpers.toy import VOCAB, built, toy_model

EVERYWHERE = ("head", "q", "k", "v", "out", "up", "down", "mixer", "mlp")
LOOP = part(LoopedLayers, first_layer=1, last_layer=1, since=(0.0, 0.0))  # layers 0 1 1 1 2
LOOPED = toy_model().set("layer_schedule", part(UNet, order=LOOP))
MODELS = {
    "plain": toy_model(),
    "untied": toy_model().set("head", part(UntiedHead)),
    "factored": toy_model().set("embed", part(FactoredEmbedding, width=8)),
    "looped": LOOPED,
    "parallel": toy_model().set(
        "layer_schedule", part(SequentialLayers, residual=part(ParallelResidual, layers="1-2"))
    ),
    "lanes": toy_model().set(
        "layer_schedule", part(SequentialLayers, residual=part(ParallelTwoLaneResidual, start_layer=1))
    ),
}
each_model = pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)


@pytest.fixture
def ids() -> Tensor:
    ids = torch.randint(2, VOCAB, (3, 12), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = 1
    return ids


def disturbed(adapters: BatchedLoRA) -> BatchedLoRA:
    """Add noise to all values, so that no factor is zero."""
    generator = torch.Generator().manual_seed(2)
    adapters.values += 0.1 * torch.randn(adapters.values.shape, generator=generator)
    return adapters


@each_model
def test_as_attached_nothing_changes_and_detached_nothing_is_left(spec: Spec[LM], ids: Tensor) -> None:
    model = built(spec)
    plain, modules, known = model(ids), [p for p, _ in model.named_modules()], parameter_roles(model)
    adapters = BatchedLoRA(model, 3, EVERYWHERE, rank=2)
    assert torch.equal(model(ids), plain)
    assert parameter_roles(model) == known and model.state_dict().keys() == known.keys(), (
        "paths of the parameters must not change"
    )
    disturbed(adapters)
    assert (model(ids) - plain).abs().amax((1, 2)).min() > 1e-3
    adapters.detach()
    assert torch.equal(model(ids), plain) and [p for p, _ in model.named_modules()] == modules
    assert not model.embed._forward_pre_hooks
    adapters.attach()
    assert (model(ids) - plain).abs().max() > 1e-3, "attached again, the adapters have kept their values"


@pytest.mark.parametrize("name", EVERYWHERE)
def test_each_site_acts_and_gets_a_gradient(name: str, ids: Tensor) -> None:
    model = built(toy_model())
    plain = model(ids)
    adapters = disturbed(BatchedLoRA(model, 3, (name,), rank=2))
    logits = model(ids)
    assert (logits - plain).abs().amax((1, 2)).min() > 1e-4
    assert (adapters.gradients(logits.square().mean()) != 0).float().mean() > 0.9


def of_row(model: LM, adapters: BatchedLoRA, row: int) -> LM:
    """A model with the adapters of a row merged into its matrices, or added by hooks beside its mixers and MLPs."""
    merged = deepcopy(model)
    for path, (_, own) in zip(adapted(model), adapters.attached, strict=True):
        a, b = (f[row].detach() for f in own.factors[-1])
        target = merged.get_submodule(path)
        if isinstance(target, Linear):
            target.weight = nn.Parameter(target.weight + adapters.scale * b @ a)
        else:
            target.register_forward_hook(lambda _, x, y, a=a, b=b: y + adapters.scale * x[0] @ a.T @ b.T)
    return merged


def adapted(model: LM) -> list[str]:
    """Paths of the modules in EVERYWHERE, in that order, for a model with an untied head."""
    found = dict(model.named_modules())
    blocks = [path for path, m in found.items() if isinstance(m, Block)]
    named = [path for name in EVERYWHERE[1:-2] for path in found if path.rpartition(".")[2] == name]
    return ["head.linear", *named, *(f"{path}.{branch}" for branch in EVERYWHERE[-2:] for path in blocks)]


@torch.no_grad()
def test_each_row_is_a_model_of_its_own(ids: Tensor) -> None:
    model = built(MODELS["untied"]).double()
    plain = deepcopy(model)
    adapters = disturbed(BatchedLoRA(model, 3, EVERYWHERE, rank=2, scale=1.7))
    logits = model(ids)
    for row in range(3):
        assert (of_row(plain, adapters, row)(ids[row : row + 1]) - logits[row]).abs().max() < 1e-12


@torch.no_grad()
def test_the_adapter_beside_the_mixer_reads_its_normalized_input(ids: Tensor) -> None:
    """So it acts in the same way if attention's own output is zero."""
    model = built(toy_model()).double()
    for block in model.blocks:
        block.get_parameter("mixer.out.weight").zero_()
    plain, states, found = model(ids), list[Any](), list[Any]()
    adapters = disturbed(BatchedLoRA(model, 3, ("mixer",), rank=2))
    model.blocks[0].get_submodule("norm").register_forward_hook(lambda _, x, y: states.append(y))
    model.blocks[0].get_submodule("mixer_scale.0").register_forward_hook(lambda _, x, y: found.append(y))
    assert (model(ids) - plain).abs().amax((1, 2)).min() > 1e-3
    a, b = adapters.attached[0][1].factors[0]
    expected = states[0] @ a.mT @ b.mT * model.get_parameter("blocks.0.mixer_scale.0.weight")
    assert expected.abs().max() > 1e-3 and (found[0] - expected).abs().max() < 1e-12


@torch.no_grad()
def test_a_looped_layer_has_a_slot_for_each_visit(ids: Tensor) -> None:
    model = built(LOOPED).double()
    plain = deepcopy(model)
    adapters = BatchedLoRA(model, 3, ("head", "q", "mlp"), rank=2)
    calls = [len(own.factors) for _, own in adapters.attached]
    assert calls == [1, 1, 3, 1, 1, 3, 1], "one for the head, and three for the middle layer"
    q = adapters.attached[2][1]
    for n, (_, b) in enumerate(q.factors):
        b += 0.1 * (n + 1)
    different = model(ids)
    assert torch.equal(model(ids), different), "each forward pass starts with the factors of the first visit"
    q.factors = q.factors[::-1]
    assert (model(ids) - different).abs().max() > 1e-3, "each visit has separate factors"
    q.factors = [q.factors[0]] * 3
    a, b = q.factors[0]
    weight = plain.get_parameter("blocks.1.mixer.q.weight")
    weight += b[0] @ a[0]
    assert (model(ids) - plain(ids)).abs().max() < 1e-12, "with equal factors for each visit it equals one looped layer"


@torch.no_grad()
def test_a_forward_that_broke_off_does_not_shift_the_next_one(ids: Tensor) -> None:
    model = built(LOOPED)
    disturbed(BatchedLoRA(model, 3, ("v",), rank=2))
    expected = model(ids)

    class Stop(Exception):
        pass

    visits = iter([None, Stop])

    def stop(*_: object) -> None:
        if error := next(visits):
            raise error

    hook = model.blocks[1].register_forward_pre_hook(stop)
    with pytest.raises(Stop):
        model(ids)
    hook.remove()
    assert torch.equal(model(ids), expected)


@pytest.mark.parametrize("rank", [0, 2])
@torch.no_grad()
def test_a_batch_may_hold_some_of_the_rows(ids: Tensor, rank: int) -> None:
    model = built(toy_model()).double()
    adapters = disturbed(BatchedLoRA(model, 3, EVERYWHERE, rank=rank))
    whole, some = model(ids), torch.tensor([True, False, True])
    with adapters.restrict_rows(some):
        assert (model(ids[some]) - whole[some]).abs().max() < 1e-12
    with pytest.raises(BitgolfError, match="the batch has 2 rows, but there are adapters for 3"):
        model(ids[some])


@torch.no_grad()
def test_a_bias_is_added_to_what_each_row_says(ids: Tensor) -> None:
    model = built(toy_model().set("head.logits_transforms", ()))
    plain, adapters = model(ids), BatchedLoRA(model, 3, ("head",), rank=0)
    assert adapters.values.shape == (3, VOCAB) and torch.equal(model(ids), plain)
    disturbed(adapters)
    assert (model(ids) - plain - adapters.values[:, None]).abs().max() < 1e-5


@torch.no_grad()
def test_the_head_s_adapter_acts_before_the_caps(ids: Tensor) -> None:
    model = built(toy_model())
    adapters = BatchedLoRA(model, 3, ("head",), rank=0)
    adapters.values += 1e6
    assert (model(ids) - 20.0).abs().max() < 1e-4, "the softcap of the toy model"


@torch.no_grad()
def test_resets_are_of_rows_and_may_keep_a() -> None:
    adapters = BatchedLoRA(built(toy_model()), 3, ("q", "head"), rank=2)
    start = adapters.values.clone()
    assert torch.equal(start[0], start[2]) and 0.2 < (start == 0).float().mean() < 0.8
    learned = disturbed(adapters).values.clone()
    adapters.reset(torch.tensor([False, True, False]))
    assert torch.equal(adapters.values[1], start[1]) and torch.equal(adapters.values[::2], learned[::2])
    adapters.reset(torch.tensor([True, False, False]), keep_a=True)
    for own, begun, before in zip(*(pieces(adapters, v) for v in (adapters.values, start, learned)), strict=True):
        is_b = bool((begun == 0).all())
        assert torch.equal(own[0], begun[0] if is_b else before[0])


def pieces(adapters: BatchedLoRA, values: Tensor) -> list[Tensor]:
    return list(values.split([leaf[0].numel() for leaf in adapters.leaves], 1))


def test_a_starts_uniform_and_depends_on_the_seed_and_the_call_alone() -> None:
    def a(seed: int, rows: int) -> list[Tensor]:
        adapters = BatchedLoRA(built(LOOPED), rows, ("q",), rank=4, seed=seed)
        return [slot[0] for _, own in adapters.attached for slot in own.factors]

    first, again, other = a(0, 2), a(0, 5), a(1, 2)
    assert all(torch.equal(x[0], y[4]) for x, y in zip(first, again, strict=True))
    assert all((x != y).all() for x, y in zip(first, other, strict=True))
    assert len({x[0].sum().item() for x in first}) == 5, "the factors of each call differ"
    bound = 32**-0.5
    drawn = torch.cat([x[0].flatten() for x in first])
    assert bound * 0.95 < drawn.abs().max() <= bound and abs(drawn.std().item() / bound - 3**-0.5) < 0.05


@torch.no_grad()
def test_read_piece_by_piece_it_says_the_same(ids: Tensor) -> None:
    model = built(LOOPED)
    disturbed(BatchedLoRA(model, 3, EVERYWHERE, rank=2))
    whole = model(ids)
    reader = IncrementalDecoder(model, 3, window=16, stride=8)
    for t in range(1, ids.shape[1]):
        assert (reader.logits - whole[:, t - 1]).abs().max() < 1e-4
        reader.step(ids[:, t])


@pytest.mark.parametrize("on", [(), ("q", "q"), ("nothing",), ("q", "gate")])
def test_names_that_find_nothing_are_errors_and_leave_nothing(on: tuple[str, ...]) -> None:
    model = built(toy_model())
    modules = [p for p, _ in model.named_modules()]
    with pytest.raises(RecipeError):
        BatchedLoRA(model, 2, on, rank=2)
    assert [p for p, _ in model.named_modules()] == modules and isinstance(model.blocks[0].mixer, Attention)


def test_a_frozen_model_keeps_nothing_for_gradients_of_its_own(ids: Tensor) -> None:
    model = built(toy_model())
    model.embed.weight.requires_grad_(False)
    with set_requires_grad(model.parameters(), False):
        assert not model(ids).requires_grad
        BatchedLoRA(model, 3, ("head",), rank=2)
        assert model(ids).requires_grad
    assert [path for path, p in model.named_parameters() if not p.requires_grad] == ["embed.weight"]
