"""Consistency of fake quantization in training with the codecs that store the weights."""

from __future__ import annotations

from torch import nn

from bitgolf.grids.integer import IntGrid
from bitgolf.grids.row_quantizer import RowQuantizer
from bitgolf.grids.scales import MIN_STEP, Float16Scale
from bitgolf.model.interfaces import WeightTransform
from bitgolf.model.parameters import parameter_roles
from bitgolf.model.qat import QATTransform
from bitgolf.model.qat_lowbit import FakeLowBit
from bitgolf.quantize.codecs.codec import Codec
from bitgolf.quantize.codecs.lowbit import FP8, GroupCodec
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.encoding import Rules, codecs_by_path

Rounding = tuple[object, ...]
"""What determines rounded values: the grid, and for row quantizers also the clip rule and the pruned share."""


def qat_mismatches(model: nn.Module, rules: Rules) -> list[str]:
    """One line for each pair of a weight transform and a codec that round differently; empty if all agree.

    Each line names the first matrix, and the number of further ones. `model` may be on the meta device.
    """
    codecs = codecs_by_path(parameter_roles(model), rules)
    found: dict[tuple[str, str], list[str]] = {}
    for path, module in model.named_modules():
        codec = codecs.get(f"{path}.weight")
        for view in getattr(module, "weight_transforms", ()):
            trained = _rounding(view)
            if codec and trained and trained != _rounding(codec):
                found.setdefault((_describe(view), _describe(codec)), []).append(f"{path}.weight")
    return [
        f"{paths[0]}{f' and {len(paths) - 1} more' * (len(paths) > 1)}: trained with {view}, stored by {codec}"
        for (view, codec), paths in found.items()
    ]


def _rounding(x: WeightTransform | Codec) -> Rounding:
    """The rounding of a weight transform or codec, without a low-rank correction. Empty if it has no grid."""
    if isinstance(x, QATTransform):
        return _row_rounding(x.codec)
    if isinstance(x, LQER):
        return _rounding(x.codec)
    if isinstance(x, RowQuantizer):
        return _row_rounding(x)
    return (x.grid,) if isinstance(x, FakeLowBit | GroupCodec | FP8) else ()


def _row_rounding(x: RowQuantizer) -> Rounding:
    return x.grid, x.clip, x.prune


def _describe(x: WeightTransform | Codec) -> str:
    """Description for a message, such as `FakeQuant of int6, MaxClip()`."""
    settings = ", ".join(_setting(setting) for setting in _rounding(x) if setting != 0.0)
    return f"{type(x).__name__}{' of ' * bool(settings)}{settings}"


def _setting(setting: object) -> str:
    if isinstance(setting, IntGrid):
        return _describe_int_grid(setting)
    return f"{setting:.3g} of the weights pruned" if isinstance(setting, float) else repr(setting)


def _describe_int_grid(grid: IntGrid) -> str:
    multiple = f", multiples of {grid.multiple}" if grid.multiple > 1 else ""
    floor = f" with steps of at least {grid.min_step:.4g}" if grid.min_step > MIN_STEP else ""
    stored = "" if isinstance(grid.scales, Float16Scale) else f", steps in {grid.scales!r}"
    full = ", full range" if grid.qmin < -grid.qmax else ""
    return f"int{grid.full_qmax.bit_length() + 1}{full}{multiple}{floor}{stored}"
