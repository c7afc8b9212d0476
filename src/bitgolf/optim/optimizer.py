"""One optimizer for a whole model: rules hand every parameter to exactly one algorithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from bitgolf.config.rules import Rule, assign_to_rules
from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.optim.algorithm import CompileFunction, UpdateAlgorithm
from bitgolf.optim.clip import clip_grad_norm_
from bitgolf.optim.parameter_group import ParameterGroup, check_same_form
from bitgolf.optim.stacked_group import StackedParameterGroup
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext, GradientAllReduce, all_reduce_gradients
from bitgolf.runtime.progress import TrainingProgress


class RuleUsage(NamedTuple):
    """What one rule acts upon: how many tensors, and how many numbers in them."""

    where: str
    algorithm: str
    tensors: int
    parameters: int


class Optimizer:
    """Every parameter in exactly one group, or a `RecipeError`. A step is `reduce_gradients`, maybe `clip_grad_norm`, `step`, `zero_grad`.

    `params` and `roles` have the same paths as keys; each rule's `use` is an `UpdateAlgorithm`, as in
    `part(Rule, where="matrix", use=part(Muon, lr=0.02))`. Of several processes each calls the same at the same time.
    """

    def __init__(
        self,
        params: Mapping[str, nn.Parameter],
        roles: Mapping[str, str],
        rules: Sequence[Spec[Rule[UpdateAlgorithm]]],
        distributed: DistributedContext = SINGLE_PROCESS,
    ) -> None:
        assert params.keys() == roles.keys(), "each parameter has one role"
        self.distributed = distributed
        taken = assign_to_rules(rules, roles, where="optimizer rules")
        self.groups = [
            _group(i, rule(), {path: params[path] for path in paths}, distributed)
            for i, (rule, paths) in enumerate(zip(rules, taken, strict=True))
        ]
        self.sharded = [
            g for g in self.groups if isinstance(g, StackedParameterGroup) and g.algorithm.is_sharded(distributed)
        ]
        self.replicated = [g for g in self.groups if g not in self.sharded]
        self.pending_all_reduce: GradientAllReduce | None = None  # on its way: of the gradients that are not sharded

    def compile(self, compiling: CompileFunction) -> None:
        """Have every algorithm compile its step, where it is worth a graph."""
        for group in self.groups:
            group.compile(compiling)

    def close(self) -> None:
        """Remove the hooks from the parameters. After this no gradient is reduced during a backward pass."""
        for group in self.groups:
            group.close()

    def mark_last_backward(self) -> None:
        """The next backward pass is the last one before `reduce_gradients`: gradients that it completes may be reduced at once."""
        for group in self.sharded:
            group.mark_last_backward()

    def reduce_gradients(self) -> None:
        """Send on their way all gradients that are not yet: to their mean over all processes, or to a share of it."""
        for group in self.sharded:
            group.reduce_gradients()
        moving = [group for group in self.replicated if group.algorithm.needs_gradients]
        for group in moving:
            group.check_gradients()
        self.pending_all_reduce = all_reduce_gradients(
            [p for group in moving for p in group.params.values()], self.distributed
        )

    def clip_grad_norm(self, limit: float) -> Tensor:
        """Clip by the norm of all gradients together; see `clip_grad_norm_`."""
        self._wait_for_gradients()
        return clip_grad_norm_(_all_gradients(self.replicated), limit, _all_gradients(self.sharded), self.distributed)

    def step(self, progress: TrainingProgress, lr_scale: float) -> None:
        """One step of every group, in place; all learning rates are scaled alike."""
        for group in self.sharded:
            group.step(progress, lr_scale)
        self._wait_for_gradients()
        for group in self.replicated:
            group.step(progress, lr_scale)
        for group in self.groups:
            group.wait()

    def _wait_for_gradients(self) -> None:
        """Wait for the mean gradients of the groups that are not sharded, once."""
        if self.pending_all_reduce:
            self.pending_all_reduce.wait()
            self.pending_all_reduce = None
            for group in self.replicated:
                group.reduce_gradients()

    def zero_grad(self) -> None:
        for group in self.groups:
            group.zero_grad()

    def state_dict(self) -> dict[str, Tensor]:
        """The state by stable names, `adam.0/embed.weight/m`: the live one, or a gathered copy where it is sharded."""
        return {f"{group.name}/{name}": tensor for group in self.groups for name, tensor in group.named_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy a state in. Names, shapes and types must be exactly those of `state_dict()`; otherwise nothing changes."""
        check_same_form(state, self.state_dict(), where="optimizer state", hint="was it saved by another recipe?")
        for group in self.groups:
            prefix = f"{group.name}/"
            group.load_state({k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)})

    def buffers(self) -> list[Tensor]:
        """Copies of weights and gradients that are kept from step to step, beside the state."""
        stacks = [stack for group in self.groups if isinstance(group, StackedParameterGroup) for stack in group.stacks]
        return [buffer for stack in stacks for buffer in (stack.weights, stack.grads)]

    def rule_usage(self) -> list[RuleUsage]:
        """One line for each rule."""
        return [
            RuleUsage(g.where, type(g.algorithm).__name__, len(g.params), sum(p.numel() for p in g.params.values()))
            for g in self.groups
        ]


def _group(
    index: int, rule: Rule[UpdateAlgorithm], params: dict[str, nn.Parameter], distributed: DistributedContext
) -> ParameterGroup:
    algorithm: Any = rule.use()
    kind, place = type(algorithm).__name__, f"optimizer rules.{index}"
    if not isinstance(algorithm, UpdateAlgorithm):
        raise RecipeError(f"{kind} is no optimizer", where=place, hint="use Muon or Adam")
    for path, p in params.items():
        if why := algorithm.unsupported_reason(p.shape):
            cause = f"{why}, {path} has shape {tuple(p.shape)}"
            raise RecipeError(cause, where=place, hint="give it to another one by an earlier rule")
    make = StackedParameterGroup if algorithm.stacked else ParameterGroup
    return make(
        f"{kind.lower()}.{index}",
        rule.where,
        algorithm,
        params,
        distributed if algorithm.is_sharded(distributed) else SINGLE_PROCESS,
    )


def _all_gradients(groups: Sequence[ParameterGroup]) -> list[Tensor]:
    return [grad for group in groups for grad in group.gradients()]
