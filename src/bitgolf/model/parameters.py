"""Parameters of a model by path: roles, loading of values, and temporary changes of `requires_grad`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bitgolf.config.registry import part_name
from bitgolf.errors import CorruptFileError, RecipeError
from bitgolf.model.part import Part


def parameter_roles(model: nn.Module) -> dict[str, str]:
    """Role of every parameter by path. A parameter that several blocks share is listed once, under its first path.

    Raises `RecipeError` if a part declares no role for one of its parameters.
    """
    found: dict[str, str] = {}
    seen: set[nn.Parameter] = set()
    for path, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False):
            if p in seen:
                continue
            seen.add(p)
            if name not in getattr(module, "roles", {}):
                message = f"{part_name(type(module))} declares no role for {name!r}"
                raise RecipeError(message, where=path, hint=f"add {name!r} to the `roles` of the class")
            found[f"{path}.{name}" if path else name] = cast(Part, module).roles[name]
    return found


def read_weights(file: Path, *, stage: str) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file, by path, to the CPU.

    stage: the stage of the pipeline that wrote it, for the hint. Raises `CorruptFileError` if the file is missing or
    damaged.
    """
    hint = f"`bitgolf run {file.parent} --from {stage}` writes it again"
    try:
        return load_file(file)
    except FileNotFoundError:
        raise CorruptFileError("the file is missing", where=str(file), hint=hint) from None
    except OSError as error:  # safetensors does not name the file
        error.filename = str(file)
        raise
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:  # of a damaged header
        raise CorruptFileError(f"not a complete safetensors file ({error})", where=str(file), hint=hint) from error


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Assign weights to a model by path. The model may be on the meta device. Shared parameters stay shared.

    The paths are those of `parameter_roles`: a shared parameter is given once, under its first path. `load_state_dict`
    would require all paths of a shared parameter. Raises `CorruptFileError` if the paths or shapes are not the model's.
    """
    own = dict(model.named_parameters())
    wrong = sorted(own.keys() ^ weights.keys()) + [k for k in own.keys() & weights if own[k].shape != weights[k].shape]
    if wrong:
        message = f"paths or shapes of the weights differ from the model: {', '.join(wrong)[:200]}"
        raise CorruptFileError(message, where="weights")
    new = {p: nn.Parameter(weights[path], p.requires_grad) for path, p in own.items()}
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            setattr(module, name, new[p])


@contextmanager
def set_requires_grad(params: Iterable[Tensor], requires_grad: bool) -> Iterator[None]:
    """Set `requires_grad` of these parameters within the context, and restore it at the end.

    With False, computation graphs treat the parameters as constants.
    """
    changed = [p for p in params if p.requires_grad != requires_grad]
    try:
        for p in changed:
            p.requires_grad_(requires_grad)
        yield
    finally:
        for p in changed:
            p.requires_grad_(not requires_grad)
