"""A model's parameters by path: their roles, their values, and whether they take gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn

from bitgolf.config.registry import part_name
from bitgolf.errors import CorruptFileError, RecipeError
from bitgolf.model.part import Part


def parameter_roles(model: nn.Module) -> dict[str, str]:
    """Path -> role of every parameter. A parameter without a role is an error of the part that owns it."""
    found: dict[str, str] = {}
    seen: set[nn.Parameter] = set()  # a matrix that several blocks share is known by its first path
    for path, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False):
            if p in seen:
                continue
            seen.add(p)
            if name not in getattr(module, "roles", {}):
                raise RecipeError(f"{part_name(type(module))} declares no role for {name!r}", where=path)
            found[f"{path}.{name}" if path else name] = cast(Part, module).roles[name]
    return found


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a model these values by path, also one built without any; what blocks share stays shared.

    The paths are those of `parameter_roles`: a parameter that stands in several places goes by its first one. (`load_state_dict`
    would ask for all of them, and part what was shared.) Raises `CorruptFileError` where paths or shapes are others.
    """
    own = dict(model.named_parameters())
    wrong = sorted(own.keys() ^ weights.keys()) + [k for k in own.keys() & weights if own[k].shape != weights[k].shape]
    if wrong:
        raise CorruptFileError(f"the weights are not this model's ({', '.join(wrong)[:200]})", where="weights")
    new = {p: nn.Parameter(weights[path], p.requires_grad) for path, p in own.items()}
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            setattr(module, name, new[p])


@contextmanager
def set_requires_grad(params: Iterable[Tensor], requires_grad: bool) -> Iterator[None]:
    """For a while these parameters take gradients, or graphs know them as constants; then all are as they were."""
    changed = [p for p in params if p.requires_grad != requires_grad]
    try:
        for p in changed:
            p.requires_grad_(requires_grad)
        yield
    finally:
        for p in changed:
            p.requires_grad_(not requires_grad)
