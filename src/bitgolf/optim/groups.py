"""One optimizer for a whole model: rules hand every parameter to exactly one algorithm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bitgolf.clock import Now
from bitgolf.errors import BitgolfError, DamagedError, RecipeError
from bitgolf.optim.algorithm import Algorithm, State
from bitgolf.rules import Rule, cover
from bitgolf.spec import Spec


class Group(NamedTuple):
    """The parameters that one rule takes, the algorithm that steps them, and its state."""

    name: str  # `muon.0`: the algorithm and the number of its rule
    where: str
    algorithm: Algorithm
    params: dict[str, nn.Parameter]
    state: State


class Touched(NamedTuple):
    """What one rule acts upon: how many tensors, and how many numbers in them."""

    where: str
    use: str
    tensors: int
    parameters: int


class Optimizer:
    """Every parameter in exactly one group, or a `RecipeError`.

    `params` and `roles` have the same paths as keys; each rule's `use` is an `Algorithm`, as in
    `part(Rule, where="matrix", use=part(Muon, lr=0.02))`.
    """

    def __init__(
        self, params: Mapping[str, nn.Parameter], roles: Mapping[str, str], rules: Sequence[Spec[Rule]]
    ) -> None:
        assert params.keys() == roles.keys(), "each parameter has one role"
        taken = cover(rules, roles, place="optimizer rules")
        self.groups = [
            _group(i, rule(), {path: params[path] for path in paths})
            for i, (rule, paths) in enumerate(zip(rules, taken, strict=True))
        ]

    def gradients(self) -> list[Tensor]:
        """All gradients, group by group. A parameter without one is an error: nothing in the model uses it."""
        return [grad for group in self.groups for grad in _gradients(group)]

    def step(self, now: Now, lr_scale: float) -> None:
        """One step of every group, in place; all learning rates are scaled alike."""
        found = [_gradients(group) for group in self.groups]  # all of them, before any parameter moves
        for group, grads in zip(self.groups, found, strict=True):
            group.algorithm.step(list(group.params.values()), grads, group.state, now, lr_scale)

    def zero_grad(self) -> None:
        for group in self.groups:
            for p in group.params.values():
                p.grad = None

    def state(self) -> dict[str, Tensor]:
        """The live state (not a copy) by stable names: `adam.0/embed.weight/m`."""
        return dict(self._named_state())

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy a state in. Names, shapes and types must be exactly those of `state()`; otherwise nothing changes."""
        own = self.state()
        wrong = [f"{name} is missing" for name in own if name not in state]
        wrong += [f"{name} is unexpected" for name in state if name not in own]
        for name in own.keys() & state.keys():
            if (have := _form(state[name])) != (want := _form(own[name])):
                wrong.append(f"{name} is {have}, expected {want}")
        if wrong:
            raise DamagedError(_some(sorted(wrong)), place="optimizer state", mend="was it saved by another recipe?")
        for name, tensor in own.items():
            tensor.copy_(state[name])

    def touched(self) -> list[Touched]:
        """One line for each rule."""
        return [
            Touched(g.where, type(g.algorithm).__name__, len(g.params), sum(p.numel() for p in g.params.values()))
            for g in self.groups
        ]

    def _named_state(self) -> Iterator[tuple[str, Tensor]]:
        for group in self.groups:
            for key, tensors in group.state.items():
                for path, tensor in zip(group.params, tensors, strict=True):
                    yield f"{group.name}/{path}/{key}", tensor


def _group(index: int, rule: Rule, params: dict[str, nn.Parameter]) -> Group:
    algorithm: Any = rule.use()
    kind = type(algorithm).__name__
    if not isinstance(algorithm, Algorithm):
        raise RecipeError(f"{kind} is no optimizer", place=f"optimizer rules.{index}", mend="use Muon or Adam")
    for path, p in params.items():
        if p.ndim < algorithm.least_dims:
            cause = f"{kind} takes tensors of {algorithm.least_dims} axes or more, {path} has shape {tuple(p.shape)}"
            raise RecipeError(cause, place=f"optimizer rules.{index}", mend="give it to Adam by an earlier rule")
    return Group(f"{kind.lower()}.{index}", rule.where, algorithm, params, algorithm.start(list(params.values())))


def _gradients(group: Group) -> list[Tensor]:
    if unused := [path for path, p in group.params.items() if p.grad is None]:
        cause = f"no gradient reached {_some(unused, ', ')}"
        raise BitgolfError(cause, place=group.name, mend="the model never uses it: remove it, or wire it in")
    return [p.grad for p in group.params.values() if p.grad is not None]


def _form(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}".replace("torch.", "")


def _some(items: Sequence[str], between: str = "; ", limit: int = 5) -> str:
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return between.join(items[:limit]) + more
