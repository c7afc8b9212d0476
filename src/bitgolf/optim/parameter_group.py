"""A parameter group: the parameters that one rule matches, with the algorithm that updates them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.optim.algorithm import CompileFunction, UpdateAlgorithm, UpdateFunction
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.progress import TrainingProgress


class ParameterGroup:
    """Parameters by path, their update algorithm and its state, replicated on all ranks.

    name: the algorithm and the index of the rule, e.g. `muon.0`.  where: the pattern of the rule.
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
        """Create the state before the first step."""
        self.state = self.algorithm.init_state(list(self.params.values()))

    def compile(self, compiling: CompileFunction) -> None:
        """Use the algorithm's compiled update function, if it has one."""
        self.update_fn = self.algorithm.compile(compiling)

    def check_gradients(self) -> None:
        """Raise `BitgolfError` if a parameter that needs a gradient has none: the model does not use it."""
        if unused := [path for path, p in self.params.items() if p.grad is None and self.algorithm.needs_gradients]:
            cause = f"no gradient reached {abbreviate(unused, ', ')}"
            hint = "the loss does not depend on it: remove the parameter, or use it in the model"
            raise BitgolfError(cause, where=self.name, hint=hint)

    def reduce_gradients(self) -> None:
        """Reduce the gradients over the ranks. Nothing to do here: the optimizer all-reduces replicated gradients."""

    def gradients(self) -> list[Tensor]:
        """The gradients that the algorithm uses. Raises `BitgolfError` if one is missing."""
        self.check_gradients()
        return [p.grad for p in self.params.values() if p.grad is not None and self.algorithm.needs_gradients]

    def step(self, progress: TrainingProgress, lr_scale: float) -> None:
        self.update_fn(list(self.params.values()), self.gradients(), self.state, progress, lr_scale)

    def wait(self) -> None:
        """Wait for the communication that `step` has started. There is none here."""

    def close(self) -> None:
        """Remove the hooks of this group from its parameters. There are none here."""

    def zero_grad(self) -> None:
        for p in self.params.values():
            p.grad = None

    def named_state(self) -> Iterator[tuple[str, Tensor]]:
        """The state as pairs of a name `path/key` and a tensor."""
        for key, tensors in self.state.items():
            for path, tensor in zip(self.params, tensors, strict=True):
                yield f"{path}/{key}", tensor

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy a state into this group. It must have the names, shapes and dtypes of `named_state`."""
        for name, tensor in self.named_state():
            tensor.copy_(state[name])


def check_same_form(saved: Mapping[str, Tensor], own: Mapping[str, Tensor], *, where: str, hint: str) -> None:
    """Raise `CorruptFileError` unless the saved state has the names, shapes and dtypes of the state `own`."""
    wrong = [f"{name} is missing" for name in own.keys() - saved.keys()]
    wrong += [f"{name} is unexpected" for name in saved.keys() - own.keys()]
    for name in own.keys() & saved.keys():
        if (found := _shape_and_dtype(saved[name])) != (expected := _shape_and_dtype(own[name])):
            wrong.append(f"{name} is {found}, expected {expected}")
    if wrong:
        raise CorruptFileError(abbreviate(sorted(wrong)), where=where, hint=hint)


def _shape_and_dtype(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}".replace("torch.", "")


def abbreviate(items: Sequence[str], between: str = "; ", limit: int = 5) -> str:
    """Join the first `limit` items; further ones are replaced by their number, e.g. "and 3 more"."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return between.join(items[:limit]) + more
