"""The optimizer of a whole model: each parameter in exactly one group, named state, strict loading."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, CorruptFileError, RecipeError
from bitgolf.optim.adam import Adam
from bitgolf.optim.frozen import Frozen
from bitgolf.optim.muon import Muon
from bitgolf.optim.muon_transforms import NorMuon, RowBlockSplit
from bitgolf.optim.optimizer import Optimizer
from bitgolf.optim.schedules import LinearRamp
from bitgolf.runtime.progress import TrainingProgress

NOW = TrainingProgress(3, 100, 0.0, 0.0)
ROLES = {"embed.weight": "embedding", "blocks.0.up": "matrix", "blocks.1.up": "matrix", "blocks.0.scale": "scale"}
SHAPES = {"embed.weight": (10, 4), "blocks.0.up": (8, 4), "blocks.1.up": (8, 4), "blocks.0.scale": (4,)}
RULES = (
    part(Rule, where="matrix", use=part(Muon, lr=0.02)),
    part(Rule, where="embedding", use=part(Adam, lr=0.05)),
    part(Rule, where="*", use=part(Adam, lr=0.04)),
)


def parameters(seed: int = 0, *, grads: bool = True) -> dict[str, nn.Parameter]:
    torch.manual_seed(seed)
    made = {path: nn.Parameter(torch.randn(SHAPES[path])) for path in ROLES}
    for p in made.values():
        p.grad = torch.randn_like(p) if grads else None
    return made


def optimizer(params: dict[str, nn.Parameter], rules: tuple[Spec[Rule], ...] = RULES) -> Optimizer:
    return Optimizer(params, ROLES, rules)


def step(chosen: Optimizer, lr_scale: float) -> None:
    chosen.reduce_gradients()
    chosen.step(NOW, lr_scale)


def test_every_parameter_moves_by_its_own_algorithm() -> None:
    params = parameters()
    before = {path: p.detach().clone() for path, p in params.items()}
    step(optimizer(params), 0.5)
    for path, p in params.items():
        change = (p - before[path]).detach()
        if ROLES[path] == "matrix":  # the update is an orthogonal matrix times lr sqrt(8 / 4)
            assert torch.linalg.svdvals(change / (0.01 * 2**0.5)).sub(0.9).abs().max() < 0.25
        else:  # the first step of Adam is lr in each entry
            lr = 0.025 if path == "embed.weight" else 0.02
            torch.testing.assert_close(change.abs(), torch.full_like(change, lr), atol=1e-5, rtol=0)


def test_touched_tells_what_each_rule_acts_upon() -> None:
    assert optimizer(parameters()).rule_usage() == [
        ("matrix", "Muon", 2, 64),
        ("embedding", "Adam", 1, 40),
        ("*", "Adam", 1, 4),
    ]


def test_rules_cover_exactly() -> None:
    with pytest.raises(RecipeError, match=r"no rule matches the parameter blocks.0.scale"):
        optimizer(parameters(), RULES[:2])
    with pytest.raises(RecipeError, match=r"has no effect|matches no parameter"):
        optimizer(parameters(), (*RULES, part(Rule, where="scale", use=part(Adam, lr=0.1))))


def test_muon_takes_matrices_only() -> None:
    with pytest.raises(RecipeError, match=r"blocks.0.scale of shape \(4,\): Muon requires at least 2"):
        optimizer(parameters(), (part(Rule, where="*", use=part(Muon)),))


def test_a_rule_must_name_an_optimizer() -> None:
    with pytest.raises(RecipeError, match="Ramp is not an optimizer"):
        optimizer(parameters(), (part(Rule, where="*", use=part(LinearRamp, start=0.0, end=1.0, steps=1)),))


def test_a_parameter_that_nothing_uses_is_named_and_nothing_moves() -> None:
    params = parameters()
    params["blocks.0.scale"].grad = None  # in the last group, yet earlier groups must not be updated either
    before = {path: p.detach().clone() for path, p in params.items()}
    chosen = optimizer(params)
    with pytest.raises(BitgolfError, match=r"no gradient reached blocks.0.scale"):
        chosen.reduce_gradients()
    assert all(torch.equal(p, before[path]) for path, p in params.items())


def test_clip_and_zero_grad() -> None:
    """Clipping uses the norm over all groups and scales the gradients that the groups use."""
    params = parameters()
    chosen = optimizer(params)
    chosen.reduce_gradients()
    whole = torch.cat([p.grad.reshape(-1) for p in params.values() if p.grad is not None]).norm()
    torch.testing.assert_close(chosen.clip_grad_norm(0.5), whole)
    scaled = [grad.reshape(-1) for group in chosen.groups for grad in group.gradients()]
    torch.testing.assert_close(torch.cat(scaled).norm(), torch.tensor(0.5))
    chosen.zero_grad()
    assert all(p.grad is None for p in params.values())


@pytest.mark.parametrize("grads", [True, False])
def test_frozen_never_moves_and_needs_no_gradient(grads: bool) -> None:
    params = parameters()
    frozen = params["blocks.0.scale"]
    before, frozen.grad = frozen.detach().clone(), torch.full((4,), 1e6) if grads else None
    rules = (*RULES[:2], part(Rule, where="scale", use=part(Frozen)))
    chosen = optimizer(params, rules)
    chosen.reduce_gradients()
    assert chosen.clip_grad_norm(1.0) < 100  # the gradient of a frozen parameter is not part of the norm
    chosen.step(NOW, 1.0)
    assert torch.equal(frozen, before)
    assert not any("scale" in name for name in chosen.state_dict())
    assert chosen.rule_usage()[2] == ("scale", "Frozen", 1, 4)
    chosen.zero_grad()
    assert frozen.grad is None


def test_head_pairs_take_only_what_they_can_cut() -> None:
    rules = (part(Rule, where="matrix", use=part(Muon, split=part(RowBlockSplit, rows=3))), *RULES[1:])
    with pytest.raises(RecipeError, match=r"blocks.0.up of shape \(8, 4\): 8 rows are not a multiple"):
        optimizer(parameters(), rules)


def test_a_memory_after_orthogonalization_is_saved_by_name() -> None:
    rules = (part(Rule, where="matrix", use=part(Muon, post_orthogonalize=(part(NorMuon),))), *RULES[1:])
    params, again = parameters(), parameters()
    a, b = optimizer(params, rules), optimizer(again, rules)
    step(a, 1.0)
    memory = a.state_dict()["muon.0/blocks.0.up/after.0"]
    assert memory.shape == (8, 1) and memory.all()
    step(b, 1.0)
    b.load_state_dict({name: t.clone() for name, t in a.state_dict().items()})
    step(a, 1.0)
    step(b, 1.0)
    assert all(torch.equal(params[path], again[path]) for path in ROLES)


def test_a_lone_process_may_take_the_sharded_path() -> None:
    """`shard="on"` uses the sharded code path with one process: values, state names and shapes are the same."""
    params, other = parameters(), parameters()
    plain, stacked = (
        optimizer(params),
        optimizer(other, (part(Rule, where="matrix", use=part(Muon, shard="on")), *RULES[1:])),
    )
    assert not plain.sharded and len(stacked.sharded) == 1
    for k in range(3):
        for chosen, group in ((plain, params), (stacked, other)):
            torch.manual_seed(k)
            for p in group.values():
                p.grad = torch.randn_like(p)
            chosen.reduce_gradients()
            chosen.clip_grad_norm(1.0)
            chosen.step(NOW, 1.0)
            chosen.zero_grad()
    for path in ROLES:
        torch.testing.assert_close(other[path], params[path], atol=1e-6, rtol=0)
    want = plain.state_dict()
    got = stacked.state_dict()
    assert {k: (t.shape, t.dtype) for k, t in got.items()} == {k: (t.shape, t.dtype) for k, t in want.items()}
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


def test_state_has_stable_names() -> None:
    assert set(optimizer(parameters()).state_dict()) == {
        "muon.0/blocks.0.up/momentum",
        "muon.0/blocks.1.up/momentum",
        *(f"adam.1/embed.weight/{key}" for key in ("steps", "m", "v")),
        *(f"adam.2/blocks.0.scale/{key}" for key in ("steps", "m", "v")),
    }


def test_resume_is_exact() -> None:
    """Three steps equal two steps, loading the state into a new optimizer, and a third step."""
    whole, parts = parameters(), parameters()
    a, b = optimizer(whole), optimizer(parts)
    for chosen in (a, b):
        step(chosen, 1.0)
        step(chosen, 0.9)
    saved = {name: t.clone() for name, t in b.state_dict().items()}
    c = optimizer(parts)
    c.load_state_dict(saved)
    step(a, 0.8)
    step(c, 0.8)
    assert all(torch.equal(whole[path], parts[path]) for path in ROLES)
    assert all(torch.equal(t, c.state_dict()[name]) for name, t in a.state_dict().items())
    assert not torch.equal(
        saved["adam.2/blocks.0.scale/m"], c.state_dict()["adam.2/blocks.0.scale/m"]
    )  # the state was copied


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("adam.1/embed.weight/m"), "adam.1/embed.weight/m is missing"),
        (lambda s: s.update({"adam.9/x/m": torch.zeros(1)}), "adam.9/x/m is unexpected"),
        (
            lambda s: s.update({"adam.1/embed.weight/v": torch.zeros(4, 10)}),
            r"v is \(4, 10\) float32, expected \(10, 4\)",
        ),
        (lambda s: s.update({"adam.1/embed.weight/v": torch.zeros(10, 4).half()}), "float16, expected .* float32"),
    ],
)
def test_loading_is_strict_and_all_or_nothing(spoil: object, message: str) -> None:
    chosen = optimizer(parameters())
    state = {name: torch.ones_like(t) for name, t in chosen.state_dict().items()}
    spoil(state)  # pyright: ignore[reportCallIssue]
    with pytest.raises(CorruptFileError, match=message):
        chosen.load_state_dict(state)
    assert not any(t.any() for t in chosen.state_dict().values())


def test_minimizes() -> None:
    """A small least-squares problem with Muon and Adam converges to its solution."""
    torch.manual_seed(0)
    params = parameters(grads=False)
    rules = (part(Rule, where="matrix", use=part(Muon, lr=0.1)), part(Rule, where="*", use=part(Adam, lr=0.05)))
    wanted = {path: torch.randn_like(p) for path, p in params.items()}
    chosen = optimizer(params, rules)

    def loss() -> torch.Tensor:
        return torch.stack([(p - wanted[path]).square().mean() for path, p in params.items()]).sum()

    first = loss().item()
    for step in range(300):
        chosen.zero_grad()
        loss().backward()
        chosen.reduce_gradients()
        chosen.step(TrainingProgress(step, 300, 0.0, 0.0), 1 - step / 300)
    assert loss().item() < 0.01 * first
