"""EMA-Nesterov against its formula in float64, and as part of a training run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.optim.ema_nesterov import EMANesterov
from bitgolf.optim.schedules import WarmdownFraction
from bitgolf.recipes.recipe import Recipe
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.graphs import warm_up_graphs
from bitgolf.training.trainer import Trainer
from helpers.toy import toy_recipe
from helpers.toy_training import make_trainer, same

STEPS = 8


def recipe(**settings: float) -> Spec[Recipe]:
    node = part(EMANesterov).replace(**settings)
    return (
        toy_recipe(steps=STEPS)
        .set("train.lookahead", node)
        .set("train.lr_schedule", part(WarmdownFraction, fraction=0.5))
    )


def run(trainer: Trainer, first: int, last: int) -> list[float]:
    """The losses of steps first, ..., last - 1."""
    return [float(trainer.step(step, TrainingProgress(step, STEPS, 0.0, 0.0))) for step in range(first, last)]


def test_it_is_its_formula_with_gradient_descent() -> None:
    """A quadratic with gradient A w; the lookahead is on for steps 3 to 6 of 10."""
    method = EMANesterov(step_size=0.7, decay=0.8, start=0.3, end=0.7)
    matrix = torch.diag(torch.tensor([1.0, 3.0, 0.2]))
    w, state = torch.tensor([1.0, -2.0, 0.5]), method.init_state([torch.zeros(3)])
    want, mean = w.double(), torch.zeros(3, dtype=torch.float64)
    for step in range(10):
        scale = 1 - step / 20
        method.look_ahead(state, [w], step / 10, scale)
        w -= 0.1 * scale * matrix @ w
        method.update(state, [w])
        ahead = want + (0.7 * scale * mean if 3 <= step < 7 else 0)
        after = ahead - 0.1 * scale * matrix.double() @ ahead
        want, mean = after, 0.8 * mean + 0.2 * (after - want)
        torch.testing.assert_close(w.double(), want, atol=1e-6, rtol=0)
        torch.testing.assert_close(state.mean_change[0].double(), mean, atol=1e-6, rtol=0)


def test_training_without_a_step_is_plain_training(data: Path) -> None:
    plain = make_trainer(data, recipe().set("train.lookahead", None), noisy=False)
    idle = make_trainer(data, recipe(step_size=0.0), noisy=False)
    moved = make_trainer(data, recipe(start=0.0, end=1.0), noisy=False)
    losses = [run(trainer, 0, STEPS) for trainer in (plain, idle, moved)]
    assert losses[0] == losses[1] and losses[0][0] == losses[2][0] and losses[0][1:] != losses[2][1:]
    weights = [torch.cat([p.detach().flatten() for p in trainer.params.values()]) for trainer in (plain, idle)]
    assert torch.equal(*weights)
    assert not any(name.startswith("lookahead") for name in plain.state_dict())


def test_gradients_are_computed_ahead(data: Path) -> None:
    """The loss of a step is that of the weights moved ahead, and the stored weights are those after the update."""
    trainer = make_trainer(data, recipe(start=0.0, end=1.0, step_size=2.0), noisy=False)
    run(trainer, 0, 3)
    before = trainer.clone_state()
    loss = run(trainer, 3, 4)[0]
    plain = make_trainer(data, recipe(start=0.0, end=1.0, step_size=0.0), noisy=False)
    plain.load_state_dict(before)
    with torch.no_grad():
        for p, change in zip(plain.params.values(), before_changes(before), strict=True):
            p.add_(change, alpha=2.0)
    assert run(plain, 3, 4)[0] == loss
    assert all(torch.equal(p, q) for p, q in zip(trainer.params.values(), plain.params.values(), strict=True))


def before_changes(state: dict[str, Tensor]) -> list[Tensor]:
    return [state[f"lookahead/{i}"] for i in range(sum(name.startswith("lookahead/") for name in state))]


def test_a_resumed_run_and_a_warm_one_have_the_same_bits(data: Path) -> None:
    settings = {"start": 0.0, "end": 1.0}
    whole = make_trainer(data, recipe(**settings))
    losses = run(whole, 0, STEPS)
    first = make_trainer(data, recipe(**settings))  # each trainer sets the random state that its loss uses
    warm_up_graphs(first, 2)
    assert run(first, 0, 5) == losses[:5]
    half = first.clone_state()
    second = make_trainer(data, recipe(**settings))
    second.load_state_dict(half)
    assert run(second, 5, STEPS) == losses[5:] and same(second.state_dict(), whole.state_dict())


def test_an_empty_range_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"start must be below end, got 0\.5 and 0\.5"):
        EMANesterov(start=0.5, end=0.5)
