"""Whether training felt the very grid that the exporter writes."""

from __future__ import annotations

from torch import nn

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
    settings = ", ".join(f"{cls.__name__} {values or ''}".strip() for cls, values in _format(rounding))
    return f"{type(rounding).__name__} ({settings})" if settings else type(rounding).__name__
