"""Whether training rounds matrices as they are stored."""

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
"""What decides the values that can be written: the grid, and with rows the clip rule and the pruned share."""


def qat_mismatches(model: nn.Module, rules: Rules) -> list[str]:
    """One line for each way in which fake quantization differs from the codecs that the rules give; best empty.

    `model` may be without values. Each line counts its matrices and names the first.
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
    """Empty for what does not round to a grid. A low-rank correction does not count."""
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
    """`FakeQuant of int6, MaxClip()`, for a message."""
    said = ", ".join(_setting(setting) for setting in _rounding(x) if setting != 0.0)
    return f"{type(x).__name__}{' of ' * bool(said)}{said}"


def _setting(setting: object) -> str:
    if isinstance(setting, IntGrid):
        return _describe_int_grid(setting)
    return f"{setting:.3g} of it pruned" if isinstance(setting, float) else repr(setting)


def _describe_int_grid(grid: IntGrid) -> str:
    multiple = f", multiples of {grid.multiple}" if grid.multiple > 1 else ""
    floor = f" with steps of {grid.min_step:.4g} and more" if grid.min_step > MIN_STEP else ""
    stored = "" if isinstance(grid.scales, Float16Scale) else f", steps in {grid.scales!r}"
    full = ", full range" if grid.qmin < -grid.qmax else ""
    return f"int{grid.full_qmax.bit_length() + 1}{full}{multiple}{floor}{stored}"
