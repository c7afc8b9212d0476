"""Adam and gradient clipping compared with the implementations of torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bitgolf.optim.adam import Adam
from bitgolf.optim.clip import clip_grad_norm_
from bitgolf.runtime.progress import TrainingProgress
from helpers.examples import examples

NOW = TrainingProgress(0, 100, 0.0, 0.0)
SHAPES = [(5, 3), (4,), (), (2, 3, 2)]


def randn(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator) for s in SHAPES]


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.0, 0.99)])
def test_equals_torch(weight_decay: float, betas: tuple[float, float]) -> None:
    """Equal to torch's Adam without weight decay and to its AdamW with it, with a learning rate that changes."""
    ours, theirs = randn(0), [nn.Parameter(p) for p in randn(0)]
    adam = Adam(lr=0.05, betas=betas, eps=1e-3, weight_decay=weight_decay)
    kind = torch.optim.AdamW if weight_decay else torch.optim.Adam
    oracle = kind(theirs, lr=0.05, betas=betas, eps=1e-3, weight_decay=weight_decay)
    state = adam.init_state(ours)
    for step in range(6):
        scale = 1.0 - step / 10
        oracle.param_groups[0]["lr"] = 0.05 * scale
        for p, g in zip(theirs, randn(step + 1), strict=True):
            p.grad = g
        oracle.step()
        adam.step(ours, randn(step + 1), state, NOW, scale)
        torch.testing.assert_close(ours, [p.detach() for p in theirs], atol=1e-7, rtol=1e-6)


def test_first_step_is_the_sign_of_the_gradient() -> None:
    """With bias correction, the first step is lr, independent of the size of the gradient."""
    params = [torch.zeros(4)]
    adam = Adam(lr=0.1)
    adam.step(params, [torch.tensor([1e-3, -1e3, 5.0, 0.0])], adam.init_state(params), NOW, 0.5)
    torch.testing.assert_close(params[0], torch.tensor([-0.05, 0.05, -0.05, 0.0]), atol=1e-6, rtol=0)


def test_resumes_exactly() -> None:
    """Training that continues from a saved state is bit-identical to uninterrupted training."""
    adam = Adam(lr=0.05)
    whole, state = randn(0), adam.init_state(randn(0))
    for k in range(1, 4):
        adam.step(whole, randn(k), state, NOW, 1.0)
    again = [p.clone() for p in whole]
    copy = {key: [t.clone() for t in tensors] for key, tensors in state.items()}
    adam.step(whole, randn(9), state, NOW, 1.0)
    Adam(lr=0.05).step(again, randn(9), copy, NOW, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert [int(t) for t in copy["steps"]] == [4] * len(SHAPES)


@settings(max_examples=examples(30), deadline=None)
@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3), limit=st.floats(0.01, 10.0))
def test_clipping_equals_torch(seed: int, scale: float, limit: float) -> None:
    ours = [g * scale for g in randn(seed)]
    theirs = [nn.Parameter(torch.zeros_like(g)) for g in ours]
    for p, g in zip(theirs, ours, strict=True):
        p.grad = g.clone()
    norm = clip_grad_norm_(ours, limit)
    want = nn.utils.clip_grad_norm_(theirs, limit)
    torch.testing.assert_close(norm, want)
    torch.testing.assert_close(ours, [p.grad for p in theirs])
    assert torch.cat([g.reshape(-1) for g in ours]).norm() <= limit * 1.0001


def test_a_small_gradient_is_not_clipped() -> None:
    grads = [torch.tensor([0.3, 0.4])]
    assert float(clip_grad_norm_(grads, 1.0)) == pytest.approx(0.5)
    assert torch.equal(grads[0], torch.tensor([0.3, 0.4]))
