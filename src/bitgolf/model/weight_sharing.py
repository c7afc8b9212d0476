"""Weight sharing between blocks, and low-rank adapters for the separate visits of shared blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import FractionBelowOne, LayerCount, LayerIndex, Width
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.interfaces import LayerOrder, OutputAdapter, WeightSharing
from bitgolf.model.parameters import parameter_roles as roles_of
from bitgolf.model.part import Scheduled
from bitgolf.runtime.progress import TrainingProgress


def tie_matrices(source: nn.Module, target: nn.Module) -> None:
    """Replace each parameter of role `matrix` in `target` by the one at the same path in `source`.

    Raises `RecipeError` if `source` has no parameter of the same shape at that path.
    """
    sources = dict(source.named_parameters())
    for path in [path for path, role in roles_of(target).items() if role == "matrix"]:
        if path not in sources or sources[path].shape != target.get_parameter(path).shape:
            message = f"tied blocks must have equal matrices, but {path} is missing or of another shape in one of them"
            raise RecipeError(message, where="model.weight_sharing")
        owner, _, name = path.rpartition(".")
        setattr(target.get_submodule(owner), name, sources[path])


@register
class TieBlocks(WeightSharing):
    """Recursive transformer: `blocks` blocks are shared by all layers (arXiv 2410.20672).

    Also the first phase of Parameter Golf #675. The model has one block for each layer; the blocks of a group share the
    matrices of the first one. Scales, gates and `LowRankAdapter`s are not shared. A group consists of consecutive
    layers, as in #675 (for two blocks 0 0 0 1 1 1), or, with `cycle`, of every n-th layer for n blocks, as in the paper
    (0 1 0 1 0 1). Raises `RecipeError` if the number of layers is not a larger multiple of `blocks`.
    """

    def __init__(self, *, blocks: LayerCount, cycle: bool = False) -> None:
        self.blocks, self.cycle = blocks, cycle

    def tie(self, blocks: nn.ModuleList) -> None:
        layers = len(blocks)
        if not 0 < self.blocks < layers or layers % self.blocks:
            message = f"the number of layers, {layers}, must be a larger multiple of blocks={self.blocks}"
            raise RecipeError(message, where="TieBlocks.blocks", hint="set model.layers to blocks x loops")
        for i, block in enumerate(blocks):
            loops = layers // self.blocks
            first = i % self.blocks if self.cycle else i // loops * loops
            if first != i:
                tie_matrices(blocks[first], block)


@register
class LowRankAdapter(OutputAdapter):
    """LoRA (arXiv 2106.09685): x A^T B^T, added to x W^T. It is not shared between tied blocks (arXiv 2410.20672).

    A (rank, fan_in) is initialized from N(0, 1/fan_in), B (fan_out, rank) to zero: in Parameter Golf #675, other
    initial values of B caused jumps of the loss. Both have the role `scale`, so that Adam trains them and not Muon.
    Raises `RecipeError` if `rank` is below 1.
    """

    roles = {"a": "scale", "b": "scale"}
    identity_at_init = True

    def __init__(self, context: BuildContext, /, *, rank: Width) -> None:
        super().__init__()
        if rank < 1:
            raise RecipeError(f"must be at least 1, got {rank}", where="LowRankAdapter.rank")
        self.a = nn.Parameter(torch.randn(rank, context.fan_in) * context.fan_in**-0.5)
        self.b = nn.Parameter(torch.zeros(context.fan_out, rank))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.a.to(x.dtype)), self.b.to(x.dtype))


@register
class LoopWithUntiedMLP(LayerOrder, WeightSharing):
    """A loop whose second pass has separate MLPs: Parameter Golf #1204.

    There, layers 4 and 5 of 11 are repeated from 0.48 of the steps on. Use the same node for `layer_schedule.order` and
    `weight_sharing`. `model.layers` includes the repeats: with 13 layers, `first_layer=4` and `last_layer=5` are
    repeated as layers 6 and 7. The repeats are executed from `since` on, a fraction of the run. A repeat shares the
    mixer matrices of its original; all its other parameters are separate and are copied from the original at `since`.

    Layer numbers in other settings (`only`, `start_layer` of lanes, norms by depth) are those of the complete model, as
    in #1204. Raises `RecipeError` for layers that do not exist and for `since` outside (0, 1).
    """

    def __init__(self, *, first_layer: LayerIndex, last_layer: LayerIndex, since: FractionBelowOne = 0.48) -> None:
        if not 0 <= first_layer <= last_layer or not 0.0 < since < 1.0:
            raise RecipeError(
                f"cannot repeat layers {first_layer} to {last_layer} from {since} of the run on",
                where="LoopWithUntiedMLP",
                hint="needs 0 <= first_layer <= last_layer and 0 < since < 1",
            )
        self.first_layer, self.repeats, self.since = (
            first_layer,
            range(last_layer + 1, 2 * last_layer + 2 - first_layer),
            since,
        )

    def phases(self, layers: int) -> Sequence[tuple[float, Sequence[int]]]:
        if self.repeats.stop > layers:
            message = (
                f"the repeats are layers {self.repeats.start} to {self.repeats.stop - 1}, but there are {layers} layers"
            )
            raise RecipeError(message, where="LoopWithUntiedMLP", hint="model.layers must include the repeats")
        return [(0.0, [i for i in range(layers) if i not in self.repeats]), (self.since, range(layers))]

    def tie(self, blocks: nn.ModuleList) -> None:
        self.phases(len(blocks))
        for i in self.repeats:
            source, repeat = blocks[i - len(self.repeats)], blocks[i]
            tie_matrices(cast(nn.Module, source.mixer), cast(nn.Module, repeat.mixer))
            repeat.add_module("late", ScheduledWeightCopy(source, repeat, self.since))


class ScheduledWeightCopy(Scheduled):
    """Copies the parameters of one block to another at the fraction `since` of the run, except those that they share.

    Before the copy, the matrices of the target are all zero. `update` copies only if they are: the copy is made once,
    also in a resumed run, and without a synchronization with the device.
    """

    def __init__(self, source: nn.Module, target: nn.Module, since: float) -> None:
        super().__init__()
        self.since, self.blocks = since, (source, target)  # a tuple, so that they do not become submodules
        with torch.no_grad():
            for w in self.uncopied_matrices():
                w.zero_()

    @property
    def phase_starts(self) -> tuple[float, ...]:
        return (self.since,)

    def uncopied_matrices(self) -> list[Tensor]:
        """The matrices of the target that it does not share with the source."""
        source, target = self.blocks
        shared = set(source.parameters())
        matrices = [target.get_parameter(path) for path, role in roles_of(target).items() if role == "matrix"]
        return [w for w in matrices if w not in shared]

    @torch.no_grad()
    def update(self, progress: TrainingProgress) -> None:
        if progress.fraction < self.since:
            return
        source, target = self.blocks
        all_zero = ~torch.stack([w.any() for w in self.uncopied_matrices()]).any()
        for p, original in zip(target.parameters(), source.parameters(), strict=True):
            if p is not original:
                p.copy_(torch.where(all_zero, original, p))
