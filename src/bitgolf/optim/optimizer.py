"""One optimizer for a whole model: rules hand every parameter to exactly one algorithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from bitgolf.config.rules import Rule, cover
from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.optim.algorithm import Algorithm, Compiling
from bitgolf.optim.clip import clip_by_norm
from bitgolf.optim.parameter_group import Group, check_same_form
from bitgolf.optim.stacked_group import StackedGroup
from bitgolf.runtime.distributed import ALONE, Mean, World, mean_gradients
from bitgolf.runtime.progress import Now


class Touched(NamedTuple):
    """What one rule acts upon: how many tensors, and how many numbers in them."""

    where: str
    use: str
    tensors: int
    parameters: int


class Optimizer:
    """Every parameter in exactly one group, or a `RecipeError`. A step is `reduce`, maybe `clip`, `step`, `zero_grad`.

    `params` and `roles` have the same paths as keys; each rule's `use` is an `Algorithm`, as in
    `part(Rule, where="matrix", use=part(Muon, lr=0.02))`. Of several processes each calls the same at the same time.
    """

    def __init__(
        self,
        params: Mapping[str, nn.Parameter],
        roles: Mapping[str, str],
        rules: Sequence[Spec[Rule[Algorithm]]],
        world: World = ALONE,
    ) -> None:
        assert params.keys() == roles.keys(), "each parameter has one role"
        self.world = world
        taken = cover(rules, roles, place="optimizer rules")
        self.groups = [
            _group(i, rule(), {path: params[path] for path in paths}, world)
            for i, (rule, paths) in enumerate(zip(rules, taken, strict=True))
        ]
        self.sharded = [g for g in self.groups if isinstance(g, StackedGroup) and g.algorithm.shards(world)]
        self.replicated = [g for g in self.groups if g not in self.sharded]
        self.mean: Mean | None = None  # on its way: of the gradients that are not sharded

    def compile(self, compiling: Compiling) -> None:
        """Have every algorithm compile its step, where it is worth a graph."""
        for group in self.groups:
            group.compile(compiling)

    def close(self) -> None:
        """Remove the hooks from the parameters. After this no gradient is reduced during a backward pass."""
        for group in self.groups:
            group.close()

    def expect(self) -> None:
        """The next backward pass is the last one before `reduce`: gradients that it completes may be reduced at once."""
        for group in self.sharded:
            group.expect()

    def reduce(self) -> None:
        """Send on their way all gradients that are not yet: to their mean over all processes, or to a share of it."""
        for group in self.sharded:
            group.reduce()
        moving = [group for group in self.replicated if group.algorithm.needs_gradients]
        for group in moving:
            group.need_gradients()
        self.mean = mean_gradients([p for group in moving for p in group.params.values()], self.world)

    def clip(self, limit: float) -> Tensor:
        """Clip by the norm of all gradients together; see `clip_by_norm`."""
        self._arrive()
        return clip_by_norm(_joined(self.replicated), limit, _joined(self.sharded), self.world)

    def step(self, now: Now, lr_scale: float) -> None:
        """One step of every group, in place; all learning rates are scaled alike."""
        for group in self.sharded:
            group.step(now, lr_scale)
        self._arrive()
        for group in self.replicated:
            group.step(now, lr_scale)
        for group in self.groups:
            group.finish()

    def _arrive(self) -> None:
        """Wait for the mean gradients of the groups that are not sharded, once."""
        if self.mean:
            self.mean.wait()
            self.mean = None
            for group in self.replicated:
                group.reduce()

    def zero_grad(self) -> None:
        for group in self.groups:
            group.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """The state by stable names, `adam.0/embed.weight/m`: the live one, or a gathered copy where it is sharded."""
        return {f"{group.name}/{name}": tensor for group in self.groups for name, tensor in group.named_state()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy a state in. Names, shapes and types must be exactly those of `state()`; otherwise nothing changes."""
        check_same_form(state, self.state(), place="optimizer state", mend="was it saved by another recipe?")
        for group in self.groups:
            prefix = f"{group.name}/"
            group.load({k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)})

    def buffers(self) -> list[Tensor]:
        """Copies of weights and gradients that are kept from step to step, beside the state."""
        stacks = [stack for group in self.groups if isinstance(group, StackedGroup) for stack in group.stacks]
        return [buffer for stack in stacks for buffer in (stack.weights, stack.grads)]

    def touched(self) -> list[Touched]:
        """One line for each rule."""
        return [
            Touched(g.where, type(g.algorithm).__name__, len(g.params), sum(p.numel() for p in g.params.values()))
            for g in self.groups
        ]


def _group(index: int, rule: Rule[Algorithm], params: dict[str, nn.Parameter], world: World) -> Group:
    algorithm: Any = rule.use()
    kind, place = type(algorithm).__name__, f"optimizer rules.{index}"
    if not isinstance(algorithm, Algorithm):
        raise RecipeError(f"{kind} is no optimizer", place=place, mend="use Muon or Adam")
    for path, p in params.items():
        if why := algorithm.unfit(p.shape):
            cause = f"{why}, {path} has shape {tuple(p.shape)}"
            raise RecipeError(cause, place=place, mend="give it to another one by an earlier rule")
    make = StackedGroup if algorithm.stacked else Group
    return make(f"{kind.lower()}.{index}", rule.where, algorithm, params, world if algorithm.shards(world) else ALONE)


def _joined(groups: Sequence[Group]) -> list[Tensor]:
    return [grad for group in groups for grad in group.gradients()]
