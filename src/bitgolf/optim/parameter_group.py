"""The parameters that one rule takes, stepped by one algorithm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.optim.algorithm import CompileFunction, UpdateAlgorithm, UpdateFunction
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.progress import TrainingProgress


class ParameterGroup:
    """Parameters by path, their algorithm and its state, all of it the same in every process.

    `name` is that of the algorithm and the number of its rule (`muon.0`), `where` what the rule says.
    """

    def __init__(
        self,
        name: str,
        where: str,
        algorithm: UpdateAlgorithm,
        params: dict[str, nn.Parameter],
        distributed: DistributedContext,
    ) -> None:
        self.name, self.where, self.algorithm, self.params, self.distributed = (
            name,
            where,
            algorithm,
            params,
            distributed,
        )
        self.update_fn: UpdateFunction = algorithm.step
        self.init_state()

    def init_state(self) -> None:
        """Make the state before the first step."""
        self.state = self.algorithm.init_state(list(self.params.values()))

    def compile(self, compiling: CompileFunction) -> None:
        """Step with a compiled graph from now on, where the algorithm has one."""
        self.update_fn = self.algorithm.compile(compiling)

    def check_gradients(self) -> None:
        """A parameter without a gradient is an error: nothing in the model uses it."""
        if unused := [path for path, p in self.params.items() if p.grad is None and self.algorithm.needs_gradients]:
            cause = f"no gradient reached {abbreviate(unused, ', ')}"
            raise BitgolfError(cause, where=self.name, hint="the model never uses it: remove it, or wire it in")

    def reduce_gradients(self) -> None:
        """Bring the gradients, means over all processes by now, to where they are stepped with: here they are there."""

    def gradients(self) -> list[Tensor]:
        """What the algorithm steps with."""
        self.check_gradients()
        return [p.grad for p in self.params.values() if p.grad is not None and self.algorithm.needs_gradients]

    def step(self, progress: TrainingProgress, lr_scale: float) -> None:
        self.update_fn(list(self.params.values()), self.gradients(), self.state, progress, lr_scale)

    def wait(self) -> None:
        """Wait for what the step has left on its way."""

    def close(self) -> None:
        """Remove the hooks that the group has registered on its parameters: here there are none."""

    def zero_grad(self) -> None:
        for p in self.params.values():
            p.grad = None

    def named_state(self) -> Iterator[tuple[str, Tensor]]:
        """The state by `path/key`."""
        for key, tensors in self.state.items():
            for path, tensor in zip(self.params, tensors, strict=True):
                yield f"{path}/{key}", tensor

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy in a state with the names and forms of `named_state`."""
        for name, tensor in self.named_state():
            tensor.copy_(state[name])


def check_same_form(saved: Mapping[str, Tensor], own: Mapping[str, Tensor], *, where: str, hint: str) -> None:
    """Raise `CorruptFileError` unless a saved state has the names, shapes and types of one's own."""
    wrong = [f"{name} is missing" for name in own.keys() - saved.keys()]
    wrong += [f"{name} is unexpected" for name in saved.keys() - own.keys()]
    for name in own.keys() & saved.keys():
        if (have := _shape_and_dtype(saved[name])) != (want := _shape_and_dtype(own[name])):
            wrong.append(f"{name} is {have}, expected {want}")
    if wrong:
        raise CorruptFileError(abbreviate(sorted(wrong)), where=where, hint=hint)


def _shape_and_dtype(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}".replace("torch.", "")


def abbreviate(items: Sequence[str], between: str = "; ", limit: int = 5) -> str:
    """The first few of them, and how many more."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return between.join(items[:limit]) + more
