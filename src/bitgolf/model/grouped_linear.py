"""Grouped linear layers: block-diagonal matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import Width
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.inits import UniformFanInInit
from bitgolf.model.interfaces import Init, OutputAdapter, WeightTransform
from bitgolf.model.linear import Linear
from bitgolf.model.part import build_chain


@register
class GroupedLinear(Linear):
    """Inputs and outputs in `groups` equal parts; outputs of part i depend on inputs of part i only (#640, MLPs).

    The blocks of rows are stored as one W (fan_out, fan_in / groups), whose fan_in is that of a block: fewer parameters
    by the factor `groups`. In the script, down projections in groups start random instead of at zero. Raises
    `RecipeError` if `groups` does not divide both widths.
    """

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        groups: Width,
        init: Spec[Init] = part(UniformFanInInit),
        weight_transforms: tuple[Spec[WeightTransform], ...] = (),
        adapters: tuple[Spec[OutputAdapter], ...] = (),
    ) -> None:
        if groups < 1 or context.fan_in % groups or context.fan_out % groups:
            raise RecipeError(
                f"groups={groups} must divide the widths {context.fan_in} and {context.fan_out}",
                where=f"GroupedLinear ({context.matrix_name})",
            )
        super().__init__(
            context._replace(fan_in=context.fan_in // groups), init=init, weight_transforms=weight_transforms
        )
        self.groups = groups
        self.adapters = build_chain(adapters, context)

    def row_inputs(self, x: Tensor) -> Tensor:
        # scaled, so that sums over positions and groups are sums over positions of the mean over groups
        return x.unflatten(-1, (self.groups, -1)) * self.groups**-0.5

    def product(self, x: Tensor) -> Tensor:
        blocks = self.effective_weight().to(x.dtype).unflatten(0, (self.groups, -1))
        return torch.einsum("...gi,goi->...go", x.unflatten(-1, (self.groups, -1)), blocks).flatten(-2)
