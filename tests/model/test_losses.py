"""Training objectives against their formulas in float64, and their use in training."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.build import build_on_meta
from bitgolf.model.interfaces import Objective
from bitgolf.model.lm import LM
from bitgolf.model.logits_transforms import QuinticCap
from bitgolf.model.objectives import (
    CombinedObjective,
    CrossEntropy,
    EntropyWeightedLoss,
    LabelSmoothing,
    MultiTokenPrediction,
    SharedHeadMultiToken,
    ZLoss,
)
from bitgolf.model.parameters import parameter_roles
from bitgolf.optim.adam import Adam
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.loss_module import LossModule
from helpers.toy import VOCAB, built, toy_model, toy_recipe
from helpers.toy_training import make_data, make_trainer

torch.set_num_threads(1)
V, D, BOS = 11, 6, 1
AT = BuildContext(vocab=V, dim=D, bos=BOS)
OBJECTIVES: list[Spec[Objective]] = [
    part(MultiTokenPrediction, heads=2),
    part(SharedHeadMultiToken),
    part(CombinedObjective, terms=(part(MultiTokenPrediction), part(ZLoss))),
    part(EntropyWeightedLoss),
    part(EntropyWeightedLoss, normalised=False),
    part(ZLoss),
    part(LabelSmoothing),
]
Head = Callable[[Tensor], Tensor]


@pytest.fixture
def states() -> Tensor:
    return torch.randn(3, 12, D, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.fixture
def targets() -> Tensor:
    """Three rows with BOS inside, at the first and at the last position, and twice in succession."""
    ids = torch.randint(2, V, (3, 12), generator=torch.Generator().manual_seed(1))
    ids[0, [4, 9]] = BOS
    ids[1, [0, 5, 6]] = BOS
    ids[2, 11] = BOS
    return ids


@pytest.fixture
def head() -> Head:
    w = torch.randn(V, D, generator=torch.Generator().manual_seed(2))
    return lambda x: x @ w.T


def nats_of(z: Tensor, target: int) -> float:
    """Negative log-likelihood of one target by its definition, in float64."""
    z = z.detach().double()
    return float(z.exp().sum().log() - z[target])


def plain(head: Head, states: Tensor, targets: Tensor) -> Tensor:
    return CrossEntropy(AT)(states, targets, head)


# ---- several tokens ahead ----------------------------------------------------------------------------------------


def further_reference(z: Tensor, targets: Tensor, ahead: int, mask: bool) -> float:
    """Mean over pairs, computed with loops. With `mask`, targets after the BOS that ends the document are excluded."""
    pairs = [(row, t) for row in range(targets.shape[0]) for t in range(targets.shape[1] - ahead)]
    inside = [(row, t) for row, t in pairs if not (mask and BOS in targets[row, t : t + ahead].tolist())]
    return sum(nats_of(z[row, t], int(targets[row, t + ahead])) for row, t in inside) / len(inside)


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("heads", [1, 3])
def test_multi_token_against_loops(mask: bool, heads: int, states: Tensor, targets: Tensor, head: Head) -> None:
    objective = MultiTokenPrediction(AT, heads=heads, weight=0.3, mask_starts=mask)
    more = 0.0
    for ahead, own in enumerate(objective.heads, 1):
        own.weight.data.normal_(std=20.0)  # type: ignore[union-attr,operator]
        z = 30 * torch.tanh(own(states) / 30)
        more += further_reference(z, targets, ahead, mask) / heads
    expected = plain(head, states, targets).item() + 0.3 * more
    assert objective(states, targets, head).item() == pytest.approx(expected, rel=1e-5)


def test_heads_may_start_further_ahead(states: Tensor, targets: Tensor, head: Head) -> None:
    """As in #640: the first of two heads predicts the token two positions after the next one, without caps."""
    objective = MultiTokenPrediction(AT, heads=2, first_offset=2, weight=0.1, logits_transforms=(), mask_starts=False)
    more = 0.0
    for ahead, own in enumerate(objective.heads, 2):
        own.weight.data.normal_()  # type: ignore[union-attr,operator]
        more += further_reference(own(states), targets, ahead, False) / 2
    expected = plain(head, states, targets).item() + 0.1 * more
    assert objective(states, targets, head).item() == pytest.approx(expected, rel=1e-5)


def test_its_caps_are_a_choice(states: Tensor, targets: Tensor, head: Head) -> None:
    bare, quintic = (MultiTokenPrediction(AT, weight=1.0, logits_transforms=caps) for caps in ((), (part(QuinticCap),)))
    for objective in (bare, quintic):
        objective.heads[0].weight.data.fill_(1.0)  # type: ignore[union-attr,operator]
        objective.heads[0].weight.data[0] = 9.0  # type: ignore[union-attr,index]
    z = bare.heads[0](states)
    losses = [o(states, targets, head).item() - plain(head, states, targets).item() for o in (bare, quintic)]
    assert losses[0] == pytest.approx(further_reference(z, targets, 1, True), rel=1e-4)
    assert losses[1] == pytest.approx(further_reference(QuinticCap(AT)(z), targets, 1, True), rel=1e-4)
    assert abs(losses[0] - losses[1]) > 0.1


def test_zero_heads_cost_ln_v_leave_the_trunk_alone_and_learn(states: Tensor, targets: Tensor, head: Head) -> None:
    objective = MultiTokenPrediction(AT, heads=2, weight=0.2)
    loss, base = objective(states, targets, head), plain(head, states, targets)
    assert loss.item() == pytest.approx(base.item() + 0.2 * math.log(V), rel=1e-6)
    (trunk, *own) = torch.autograd.grad(loss, [states, *objective.parameters()])
    (alone,) = torch.autograd.grad(base, states)
    assert torch.allclose(trunk, alone, atol=1e-7) and all(g.abs().max() > 1e-3 for g in own)
    assert set(parameter_roles(objective).values()) == {"head"} and len(own) == 2


def test_a_document_predicts_its_end_and_nothing_behind(head: Head) -> None:
    """A pair that crosses a document start is excluded, but the BOS itself may be predicted."""
    x = torch.randn(1, 5, D)
    targets = torch.tensor([[3, 4, BOS, 5, 6]])
    objective = MultiTokenPrediction(AT, heads=1, weight=1.0)
    objective.heads[0].weight.data.normal_()  # type: ignore[union-attr,operator]
    z = 30 * torch.tanh(objective.heads[0](x) / 30)
    pairs = [(0, 4), (1, BOS), (3, 6)]  # without (2, 5), which crosses a document start
    expected = sum(nats_of(z[0, t], target) for t, target in pairs) / 3
    assert (objective(x, targets, head) - plain(head, x, targets)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "objective", [MultiTokenPrediction(AT, heads=5), SharedHeadMultiToken(AT)], ids=["own", "shared"]
)
def test_where_no_pair_counts_it_is_cross_entropy(objective: Objective, states: Tensor, head: Head) -> None:
    starts, short = torch.full((3, 12), BOS), torch.full((3, 1), 4)
    assert objective(states, starts, head).item() == pytest.approx(plain(head, states, starts).item())
    one = states[:, :1]
    assert objective(one, short, head).item() == pytest.approx(plain(head, one, short).item())


def test_the_start_token_is_that_of_the_place(states: Tensor, targets: Tensor, head: Head) -> None:
    other = torch.where(targets == BOS, 0, targets)
    losses = [SharedHeadMultiToken(AT._replace(bos=bos))(states, other, head).item() for bos in (0, 1)]
    unmasked = SharedHeadMultiToken(AT, mask_starts=False)(states, other, head).item()
    assert losses[1] == unmasked != losses[0]


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("mask", [True, False])
def test_shared_multi_token_against_loops(mask: bool, steps: int, states: Tensor, targets: Tensor, head: Head) -> None:
    ours = SharedHeadMultiToken(AT, weight=0.2, steps=steps, mask_starts=mask)(states, targets, head).item()
    z = head(states).detach()
    more = sum(further_reference(z, targets, ahead, mask) for ahead in range(1, steps + 1)) / steps
    assert ours == pytest.approx(plain(head, states, targets).item() + 0.2 * more, rel=1e-5)
    assert not list(SharedHeadMultiToken(AT).parameters())


def test_no_heads_are_an_error() -> None:
    with pytest.raises(RecipeError, match=r"heads: must be at least 1, got 0"):
        MultiTokenPrediction(AT, heads=0)


# ---- weights and normaliser --------------------------------------------------------------------------------------


def weighted_reference(z: Tensor, targets: Tensor, normalised: bool) -> float:
    z = z.double().flatten(0, 1)
    p = z.exp() / z.exp().sum(-1, keepdim=True)
    entropy = -(p * p.log()).sum(-1)
    w = [min(1.5, max(0.5, 0.5 + h / entropy.mean().item())) for h in entropy.tolist()]
    losses = [nats_of(row, int(t)) for row, t in zip(z, targets.flatten(), strict=True)]
    total = sum(a * b for a, b in zip(w, losses, strict=True))
    return total / (sum(w) if normalised else len(w))


@pytest.mark.parametrize("normalised", [True, False])
def test_entropy_weights_against_loops(normalised: bool, states: Tensor, targets: Tensor, head: Head) -> None:
    ours = EntropyWeightedLoss(AT, normalised=normalised)(states, targets, head).item()
    assert ours == pytest.approx(weighted_reference(head(states).detach(), targets, normalised), rel=1e-5)
    assert abs(ours - plain(head, states, targets).item()) > 1e-3


def test_equal_entropies_give_plain_cross_entropy_and_half_again_as_published(targets: Tensor) -> None:
    rotated = torch.stack([torch.arange(float(V)).roll(int(t)) for t in torch.arange(36)]).view(3, 12, V)
    base = plain(lambda x: x, rotated, targets).item()
    normalised, published = (
        EntropyWeightedLoss(AT, normalised=n)(rotated, targets, lambda x: x) for n in (True, False)
    )
    assert normalised.item() == pytest.approx(base, rel=1e-5)
    assert published.item() == pytest.approx(1.5 * base, rel=1e-5)


def test_normalised_weights_have_mean_1_and_none_has_a_gradient(states: Tensor, targets: Tensor, head: Head) -> None:
    objective = EntropyWeightedLoss(AT)
    w = objective.weights(head(states))
    assert w.mean().item() == pytest.approx(1, abs=1e-6) and w.std() > 0.1 and not w.requires_grad
    published = EntropyWeightedLoss(AT, normalised=False).weights(head(states))
    assert published.min() >= 0.5 and published.max() == 1.5 and 1 < published.mean() < 1.5
    z = head(states).flatten(0, 1)
    fixed = (w.flatten() * torch.nn.functional.cross_entropy(z, targets.flatten(), reduction="none")).mean()
    ours, theirs = (
        torch.autograd.grad(loss, states, retain_graph=True)[0] for loss in (objective(states, targets, head), fixed)
    )
    assert torch.allclose(ours, theirs, atol=1e-7)


def test_certain_predictions_have_finite_weights(targets: Tensor) -> None:
    certain = 1e4 * torch.nn.functional.one_hot(targets, V).float()
    assert EntropyWeightedLoss(AT)(certain, targets, lambda x: x).item() == 0


def test_z_loss_against_its_formula(states: Tensor, targets: Tensor, head: Head) -> None:
    z = head(states).detach().double()
    lse = z.exp().sum(-1).log()
    expected = plain(head, states, targets).item() + 0.01 * lse.square().mean().item()
    assert ZLoss(AT, weight=0.01)(states, targets, head).item() == pytest.approx(expected, rel=1e-6)


def test_label_smoothing_against_its_formula(states: Tensor, targets: Tensor, head: Head) -> None:
    """The mean over all tokens of the vocabulary gets the weight 0.1, and none is the plain loss."""
    log_p = head(states).detach().double().log_softmax(-1)
    smoothed = 0.9 * log_p.gather(-1, targets[..., None]).squeeze(-1) + 0.1 * log_p.mean(-1)
    assert LabelSmoothing(AT, smoothing=0.1)(states, targets, head).item() == pytest.approx(-smoothed.mean().item())
    assert LabelSmoothing(AT, smoothing=0.0)(states, targets, head).item() == pytest.approx(
        plain(head, states, targets).item()
    )


def test_z_loss_sees_the_shift_that_cross_entropy_does_not(targets: Tensor) -> None:
    shift = torch.tensor(3.0, requires_grad=True)
    z = torch.randn(3, 12, V)
    loss = ZLoss(AT, weight=0.5)(z, targets, lambda x: x + shift)
    assert torch.autograd.grad(loss, shift)[0].item() == pytest.approx((z + 3).logsumexp(-1).mean().item(), rel=1e-4)


# ---- several objectives ------------------------------------------------------------------------------------------


def test_several_objectives_share_one_cross_entropy(states: Tensor, targets: Tensor, head: Head) -> None:
    nodes = part(SharedHeadMultiToken, weight=0.3, steps=2), part(ZLoss, weight=0.01), part(MultiTokenPrediction)
    calls = list[Tensor]()

    def counted(x: Tensor) -> Tensor:
        calls.append(x)
        return head(x)

    base = plain(head, states, targets).item()
    added = sum(node(AT)(states, targets, head).item() - base for node in nodes)
    combined = CombinedObjective(AT, terms=nodes)
    assert combined(states, targets, counted).item() == pytest.approx(base + added, rel=1e-5)
    assert len(calls) == 1, "the logits are computed once"
    assert [name for name, _ in combined.named_parameters()] == ["terms.2.heads.0.weight"]
    with pytest.raises(RecipeError, match=r"CombinedObjective.terms: at least one objective is needed"):
        CombinedObjective(AT, terms=())


# ---- in training, and nowhere else -------------------------------------------------------------------------------


@pytest.mark.parametrize("node", OBJECTIVES, ids=repr)
def test_full_graph_and_same_numbers_when_compiled(node: Spec[Objective]) -> None:
    ids = torch.randint(1, VOCAB, (2, 13))
    task = LossModule(built(toy_model().set("layers", 1)), node(BuildContext(vocab=VOCAB, dim=32)))
    torch._dynamo.reset()
    compiled = torch.compile(task, fullgraph=True, backend="eager")
    assert compiled(ids[:, :-1], ids[:, 1:]).item() == pytest.approx(task(ids[:, :-1], ids[:, 1:]).item(), rel=1e-6)


@pytest.mark.parametrize("node", OBJECTIVES, ids=repr)
def test_it_is_another_loss_than_cross_entropy(
    node: Spec[Objective], states: Tensor, targets: Tensor, head: Head
) -> None:
    assert abs((node(AT)(states, targets, head) - plain(head, states, targets)).item()) > 1e-4


def with_rule(recipe: Spec[Any]) -> Spec[Any]:
    return recipe.set("train.optim", (*recipe().train().optim, part(Rule, where="head", use=part(Adam, lr=0.02))))


def test_extra_heads_train_and_stay_at_home(tmp_path: Path) -> None:
    """Heads must match an optimizer rule; they are trained, and the exported model does not contain them."""
    recipe = toy_recipe(steps=2).set("train.objective", part(MultiTokenPrediction, heads=2))
    data = make_data(tmp_path)
    with pytest.raises(RecipeError, match=r"no rule matches the parameter objective.heads.0.weight"):
        make_trainer(data, recipe, noisy=False)
    trainer = make_trainer(data, with_rule(recipe), noisy=False)
    heads = {name: p for name, p in trainer.params.items() if name.startswith("objective.")}
    assert len(heads) == 2 and all(p.abs().max() == 0 for p in heads.values())
    trainer.step(0, TrainingProgress(0, 2, 0.0, 0.0))
    assert all(p.abs().max() > 0 for p in heads.values())
    model: LM = build_on_meta(recipe().model, trainer.model.embed.weight.shape[0])
    assert dict(model.named_parameters()).keys() == {
        name.removeprefix("model.") for name in trainer.params if name not in heads
    }
