"""The optimizer of a whole model. Rules assign each parameter to exactly one update algorithm."""

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
    """What one rule matched: the number of tensors and of scalar parameters in them."""

    where: str
    algorithm: str
    tensors: int
    parameters: int


class Optimizer:
    """Optimizer with one parameter group per rule. Raises `RecipeError` unless the rules cover each parameter once.

    A training step calls `reduce_gradients`, optionally `clip_grad_norm`, then `step` and `zero_grad`. With several
    ranks, all ranks make the same calls in the same order.

    params: path -> parameter.  roles: path -> role, for the same paths.
    rules: e.g. `part(Rule, where="matrix", use=part(Muon, lr=0.02))`, where `use` builds an `UpdateAlgorithm`.
    """

    def __init__(
        self,
        params: Mapping[str, nn.Parameter],
        roles: Mapping[str, str],
        rules: Sequence[Spec[Rule[UpdateAlgorithm]]],
        distributed: DistributedContext = SINGLE_PROCESS,
    ) -> None:
        assert params.keys() == roles.keys(), "params and roles must have the same paths"
        self.distributed = distributed
        taken = assign_to_rules(rules, roles, where="train.optim")
        self.groups = [
            _group(i, rule(), {path: params[path] for path in paths}, distributed)
            for i, (rule, paths) in enumerate(zip(rules, taken, strict=True))
        ]
        self.sharded = [
            g for g in self.groups if isinstance(g, StackedParameterGroup) and g.algorithm.is_sharded(distributed)
        ]
        self.replicated = [g for g in self.groups if g not in self.sharded]
        self.pending_all_reduce: GradientAllReduce | None = None  # of the gradients of replicated groups

    def compile(self, compiling: CompileFunction) -> None:
        """Let every algorithm compile its step, if it has a compiled form."""
        for group in self.groups:
            group.compile(compiling)

    def close(self) -> None:
        """Remove the hooks from the parameters. Gradients are then no longer reduced during a backward pass."""
        for group in self.groups:
            group.close()

    def mark_last_backward(self) -> None:
        """Declare the next backward pass the last before `reduce_gradients`: it may then reduce complete gradients."""
        for group in self.sharded:
            group.mark_last_backward()

    def reduce_gradients(self) -> None:
        """Start the pending reductions: all-reduce for replicated groups, reduce-scatter for sharded ones.

        The result is the mean over all ranks. Returns without waiting. Raises `BitgolfError` if a parameter that needs
        a gradient has none.
        """
        for group in self.sharded:
            group.reduce_gradients()
        trained = [group for group in self.replicated if group.algorithm.needs_gradients]
        for group in trained:
            group.check_gradients()
        self.pending_all_reduce = all_reduce_gradients(
            [p for group in trained for p in group.params.values()], self.distributed
        )

    def clip_grad_norm(self, limit: float) -> Tensor:
        """Clip the global norm of all gradients to `limit`; returns the norm before. See `clip_grad_norm_`."""
        self._wait_for_gradients()
        return clip_grad_norm_(_all_gradients(self.replicated), limit, _all_gradients(self.sharded), self.distributed)

    def step(self, progress: TrainingProgress, lr_scale: float) -> None:
        """Update the parameters of all groups in place. `lr_scale` multiplies every learning rate."""
        for group in self.sharded:
            group.step(progress, lr_scale)
        self._wait_for_gradients()
        for group in self.replicated:
            group.step(progress, lr_scale)
        for group in self.groups:
            group.wait()

    def _wait_for_gradients(self) -> None:
        """Wait for the all-reduced gradients of the replicated groups, if a reduction is pending."""
        if self.pending_all_reduce:
            self.pending_all_reduce.wait()
            self.pending_all_reduce = None
            for group in self.replicated:
                group.reduce_gradients()

    def zero_grad(self) -> None:
        for group in self.groups:
            group.zero_grad()

    def state_dict(self) -> dict[str, Tensor]:
        """The state by name, e.g. `adam.0/embed.weight/m`. Sharded tensors are gathered copies, others are not copied.

        Collective if a group is sharded: all ranks must call it.
        """
        return {f"{group.name}/{name}": tensor for group in self.groups for name, tensor in group.named_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy a state into this optimizer.

        Raises `CorruptFileError`, and changes nothing, unless names, shapes and dtypes equal those of `state_dict()`.
        """
        hint = "it was probably saved with another recipe; load it with that recipe or start without it"
        check_same_form(state, self.state_dict(), where="optimizer state", hint=hint)
        for group in self.groups:
            prefix = f"{group.name}/"
            group.load_state({k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)})

    def buffers(self) -> list[Tensor]:
        """The persistent copies of weights and gradients in stacks. They occupy memory in addition to the state."""
        stacks = [stack for group in self.groups if isinstance(group, StackedParameterGroup) for stack in group.stacks]
        return [buffer for stack in stacks for buffer in (stack.weights, stack.grads)]

    def rule_usage(self) -> list[RuleUsage]:
        """One entry per rule, in the order of the rules."""
        return [
            RuleUsage(g.where, type(g.algorithm).__name__, len(g.params), sum(p.numel() for p in g.params.values()))
            for g in self.groups
        ]


def _group(
    index: int, rule: Rule[UpdateAlgorithm], params: dict[str, nn.Parameter], distributed: DistributedContext
) -> ParameterGroup:
    algorithm: Any = rule.use()
    kind, where = type(algorithm).__name__, f"train.optim.{index}"
    if not isinstance(algorithm, UpdateAlgorithm):
        raise RecipeError(f"{kind} is not an optimizer algorithm", where=where, hint="use Muon, Adam or Frozen")
    for path, p in params.items():
        if reason := algorithm.unsupported_reason(p.shape):
            cause = f"{kind} cannot update {path} of shape {tuple(p.shape)}: {reason}"
            raise RecipeError(cause, where=where, hint="add an earlier rule that assigns it to another algorithm")
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
