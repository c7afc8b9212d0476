"""Whether training rounds matrices as they are stored."""

from __future__ import annotations

from torch import nn

from bitgolf.grids.integer import IntGrid
from bitgolf.grids.row_quantizer import RowQuantizer
from bitgolf.grids.scales import STEP_FLOOR, HalfScale
from bitgolf.model.interfaces import View
from bitgolf.model.parameters import roles
from bitgolf.model.qat import TrainingView
from bitgolf.model.qat_lowbit import LowBit
from bitgolf.quantize.codecs.codec import Codec
from bitgolf.quantize.codecs.lowbit import Fp8, Groups
from bitgolf.quantize.codecs.lqer import LowRankRepair
from bitgolf.quantize.encoding import Rules, assign

Rounding = tuple[object, ...]
"""What decides the values that can be written: the grid, and with rows the clip rule and the pruned share."""


def disagreements(model: nn.Module, rules: Rules) -> list[str]:
    """One line for each way in which fake quantization differs from the codecs that the rules give; best empty.

    `model` may be without values. Each line counts its matrices and names the first.
    """
    codecs = assign(roles(model), rules)
    found: dict[tuple[str, str], list[str]] = {}
    for path, module in model.named_modules():
        codec = codecs.get(f"{path}.weight")
        for view in getattr(module, "view", ()):
            trained = _rounding(view)
            if codec and trained and trained != _rounding(codec):
                found.setdefault((_words(view), _words(codec)), []).append(f"{path}.weight")
    return [
        f"{paths[0]}{f' and {len(paths) - 1} more' * (len(paths) > 1)}: trained with {view}, stored by {codec}"
        for (view, codec), paths in found.items()
    ]


def _rounding(x: View | Codec) -> Rounding:
    """Empty for what does not round to a grid. A low-rank correction does not count."""
    if isinstance(x, TrainingView):
        return _row_rounding(x.codec)
    if isinstance(x, LowRankRepair):
        return _rounding(x.codec)
    if isinstance(x, RowQuantizer):
        return _row_rounding(x)
    return (x.grid,) if isinstance(x, LowBit | Groups | Fp8) else ()


def _row_rounding(x: RowQuantizer) -> Rounding:
    return x.grid, x.clip, x.prune


def _words(x: View | Codec) -> str:
    """`FakeQuant of int6, MaxClip()`, for a message."""
    said = ", ".join(_setting(setting) for setting in _rounding(x) if setting != 0.0)
    return f"{type(x).__name__}{' of ' * bool(said)}{said}"


def _setting(setting: object) -> str:
    if isinstance(setting, IntGrid):
        return _int_words(setting)
    return f"{setting:.3g} of it pruned" if isinstance(setting, float) else repr(setting)


def _int_words(grid: IntGrid) -> str:
    multiple = f", multiples of {grid.multiple}" if grid.multiple > 1 else ""
    floor = f" with steps of {grid.floor:.4g} and more" if grid.floor > STEP_FLOOR else ""
    stored = "" if isinstance(grid.scales, HalfScale) else f", steps in {grid.scales!r}"
    full = ", full range" if grid.low < -grid.top else ""
    return f"int{grid.reach.bit_length() + 1}{full}{multiple}{floor}{stored}"
