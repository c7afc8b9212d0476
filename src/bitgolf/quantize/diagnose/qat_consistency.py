"""Whether training felt the very grid that the exporter writes."""

from __future__ import annotations

from torch import nn

from bitgolf.config.spec import schema
from bitgolf.grids.integer import IntGrid
from bitgolf.grids.scales import STEP_FLOOR, HalfScale
from bitgolf.model.interfaces import View
from bitgolf.model.parameters import roles
from bitgolf.quantize.encoding import Rules, assign


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
    """What decides the values that a view or a codec can write: its grid, and its clip and its pruning where it has one."""
    return [(type(x), vars(x)) for x in _deciding(rounding)] + [(float, {"pruned": _pruned(rounding)})]


def _words(rounding: object) -> str:
    """`FakeQuant of int6, MaxClip()`: what a person would say of it."""
    said = [_int_words(x) if isinstance(x, IntGrid) else _settings(x) for x in _deciding(rounding)]
    said += [f"{pruned:.3g} of it pruned"] if (pruned := _pruned(rounding)) else []
    return f"{type(rounding).__name__}{' of ' * bool(said)}{', '.join(said)}"


def _deciding(rounding: object) -> list[object]:
    return [x for x in (getattr(rounding, name, None) for name in ("grid", "clip")) if x is not None]


def _pruned(rounding: object) -> float:
    return getattr(rounding, "prune", 0.0)


def _int_words(grid: IntGrid) -> str:
    multiple = f", multiples of {grid.multiple}" if grid.multiple > 1 else ""
    floor = f" with steps of {grid.floor:.4g} and more" if grid.floor > STEP_FLOOR else ""
    stored = "" if isinstance(grid.scales, HalfScale) else f", steps in {_settings(grid.scales)}"
    full = ", full range" if grid.low < -grid.top else ""
    return f"int{grid.reach.bit_length() + 1}{full}{multiple}{floor}{stored}"


def _settings(x: object) -> str:
    """As a recipe would write it: the class and the arguments of its constructor, which it keeps under their names."""
    return f"{type(x).__name__}({', '.join(f'{name}={getattr(x, name)!r}' for name in schema(type(x)))})"
