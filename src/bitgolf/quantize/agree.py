"""Whether training felt the very grid that the exporter writes."""

from __future__ import annotations

from torch import nn

from bitgolf.grids.integer import STEP_FLOOR, IntGrid
from bitgolf.model.core import roles
from bitgolf.model.sockets import View
from bitgolf.quantize.codes import Rules, assign


def disagreements(model: nn.Module, rules: Rules) -> list[str]:
    """One line for each way in which views that round weights differ from the codecs their rules give; best empty.

    `model` may be without values. Each line counts its matrices and names the first.
    """
    codecs = assign(roles(model), rules)
    found: dict[tuple[str, str], list[str]] = {}
    for path, module in model.named_modules():
        codec = codecs.get(f"{path}.weight")
        for view in getattr(module, "view", ()):
            if codec and isinstance(view, View) and hasattr(view, "grid") and _format(view) != _format(codec):
                found.setdefault((_words(view), _words(codec)), []).append(f"{path}.weight")
    return [
        f"{paths[0]}{f' and {len(paths) - 1} more' * (len(paths) > 1)}: trained with {view}, stored by {codec}"
        for (view, codec), paths in found.items()
    ]


def _format(rounding: object) -> list[tuple[type, dict[str, object]]]:
    """What decides the values that a view or a codec can write: its grid, and its clip where it has one."""
    deciding = [getattr(rounding, name, None) for name in ("grid", "clip")]
    return [(type(x), vars(x)) for x in deciding if x is not None]


def _words(rounding: object) -> str:
    """`FakeQuant of int6, MaxClip()`: what a person would say of it."""
    deciding = [getattr(rounding, name, None) for name in ("grid", "clip")]
    said = [_int_words(x) if isinstance(x, IntGrid) else _settings(x) for x in deciding if x is not None]
    return f"{type(rounding).__name__}{' of ' * bool(said)}{', '.join(said)}"


def _int_words(grid: IntGrid) -> str:
    floor = f" with steps of {grid.floor:.4g} and more" if grid.floor > STEP_FLOOR else ""
    return f"int{grid.top.bit_length() + 1}{', full range' * (grid.low < -grid.top)}{floor}"


def _settings(x: object) -> str:
    return f"{type(x).__name__}({', '.join(f'{k}={v}' for k, v in vars(x).items())})"
