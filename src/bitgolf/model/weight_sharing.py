"""What blocks have in common: tied weights, and what tells the visits of tied blocks apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.interfaces import LayerOrder, OutputAdapter, WeightSharing
from bitgolf.model.parameters import parameter_roles as roles_of
from bitgolf.model.part import Scheduled
from bitgolf.runtime.progress import TrainingProgress


def tie_matrices(source: nn.Module, target: nn.Module) -> None:
    """Let every parameter of role `matrix` in the target be the one at the same path in the source."""
    theirs = dict(source.named_parameters())
    for path in [path for path, role in roles_of(target).items() if role == "matrix"]:
        if path not in theirs or theirs[path].shape != target.get_parameter(path).shape:
            raise RecipeError(f"tied blocks must be alike, and {path} is in one alone", where="model.weight_sharing")
        owner, _, name = path.rpartition(".")
        setattr(target.get_submodule(owner), name, theirs[path])


@register
class TieBlocks(WeightSharing):
    """A recursive transformer: `layers` visits of a few blocks (arXiv 2410.20672; Parameter Golf #675, first phase).

    The model is built with one block for each visit. Of each group of layers / blocks, all take their matrices from
    the first; scales, gates and `LowRankAdapter` stay each visit's own. Groups are consecutive layers, as in #675 (0 0 0 1 1 1
    for two blocks), or with `cycle` every n-th layer (0 1 0 1 0 1), as in the paper.
    """

    def __init__(self, *, blocks: int, cycle: bool = False) -> None:
        self.blocks, self.cycle = blocks, cycle

    def tie(self, blocks: nn.ModuleList) -> None:
        layers = len(blocks)
        if not 0 < self.blocks < layers or layers % self.blocks:
            cause = f"{layers} layers are no equal number of visits of {self.blocks} blocks"
            raise RecipeError(cause, where="TieBlocks.blocks", hint="set model.layers to blocks x loops")
        for i, block in enumerate(blocks):
            loops = layers // self.blocks
            first = i % self.blocks if self.cycle else i // loops * loops
            if first != i:
                tie_matrices(blocks[first], block)


@register
class LowRankAdapter(OutputAdapter):
    """x A^T B^T beside x W^T: LoRA (arXiv 2106.09685), here what is each visit's own in a tied block (arXiv 2410.20672).

    A (rank, fan_in) is normal with standard deviation 1/sqrt(fan_in), B (fan_out, rank) zero: other values of B made
    the loss jump in Parameter Golf #675. Both have the role `scale`: they are for Adam, not for Muon.
    """

    roles = {"a": "scale", "b": "scale"}
    identity_at_init = True

    def __init__(self, context: BuildContext, /, *, rank: int) -> None:
        super().__init__()
        if rank < 1:
            raise RecipeError(f"a rank of {rank} adds nothing", where="LowRankAdapter.rank")
        self.a = nn.Parameter(torch.randn(rank, context.fan_in) * context.fan_in**-0.5)
        self.b = nn.Parameter(torch.zeros(context.fan_out, rank))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.a.to(x.dtype)), self.b.to(x.dtype))


@register
class LoopWithUntiedMLP(LayerOrder, WeightSharing):
    """A loop whose second pass has MLPs of its own: Parameter Golf #1204 (layers 4 and 5 of 11, at 0.48 of its steps).

    One node that stands in two places, `layer_schedule.order` and `weight_sharing`. `layers` counts the repeats: 13, where `first_layer=4,
    last_layer=5` are repeated as the blocks 6 and 7, which are not visited until `since`. A repeat has its original's
    matrices in the mixer; all else is its own and starts as a copy of the original at that moment. So layers have
    the numbers that they have at the end, in `only`, in `start_layer` of lanes, in norms by depth (as in #1204).
    """

    def __init__(self, *, first_layer: int, last_layer: int, since: float = 0.48) -> None:
        if not 0 <= first_layer <= last_layer or not 0.0 < since < 1.0:
            raise RecipeError(
                f"layers {first_layer} to {last_layer} cannot be repeated from {since} on", where="LoopWithUntiedMLP"
            )
        self.first_layer, self.repeats, self.since = (
            first_layer,
            range(last_layer + 1, 2 * last_layer + 2 - first_layer),
            since,
        )

    def phases(self, layers: int) -> Sequence[tuple[float, Sequence[int]]]:
        if self.repeats.stop > layers:
            cause = f"{layers} layers have no room for repeats {self.repeats.start} to {self.repeats.stop - 1}"
            raise RecipeError(cause, where="LoopWithUntiedMLP", hint="count the repeats in model.layers")
        return [(0.0, [i for i in range(layers) if i not in self.repeats]), (self.since, range(layers))]

    def tie(self, blocks: nn.ModuleList) -> None:
        self.phases(len(blocks))
        for i in self.repeats:
            source, repeat = blocks[i - len(self.repeats)], blocks[i]
            tie_matrices(cast(nn.Module, source.mixer), cast(nn.Module, repeat.mixer))
            repeat.add_module("late", ScheduledWeightCopy(source, repeat, self.since))


class ScheduledWeightCopy(Scheduled):
    """Gives a block the values of another at a moment of the run; what they share is left alone.

    Until then the block's own matrices are all zero, which is how a copy is known not to have been made yet: so it is
    made once, also where a run is resumed, and without asking the device.
    """

    def __init__(self, source: nn.Module, target: nn.Module, since: float) -> None:
        super().__init__()
        self.since, self.blocks = since, (source, target)  # a tuple, lest they become children
        with torch.no_grad():
            for w in self.uncopied_matrices():
                w.zero_()

    @property
    def phase_starts(self) -> tuple[float, ...]:
        return (self.since,)

    def uncopied_matrices(self) -> list[Tensor]:
        source, target = self.blocks
        shared = set(source.parameters())
        own = [target.get_parameter(path) for path, role in roles_of(target).items() if role == "matrix"]
        return [w for w in own if w not in shared]

    @torch.no_grad()
    def update(self, progress: TrainingProgress) -> None:
        if progress.fraction < self.since:
            return
        source, target = self.blocks
        blank = ~torch.stack([w.any() for w in self.uncopied_matrices()]).any()
        for own, theirs in zip(target.parameters(), source.parameters(), strict=True):
            if own is not theirs:
                own.copy_(torch.where(blank, theirs, own))
