"""Check of the shapes that parts return, on the probe batch before training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from bitgolf.config.locate import node_path
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.model import interfaces
from bitgolf.model.build import specs_by_path

SAME_SHAPE = (
    interfaces.Activation,
    interfaces.AttentionOutputPart,
    interfaces.FeedForward,
    interfaces.LogitsTransform,
    interfaces.Norm,
    interfaces.ResidualScale,
    interfaces.ResidualStreamPart,
    interfaces.TokenMixer,
    interfaces.ValuePart,
    interfaces.WeightTransform,
)
"""Interfaces whose output has the shape of the first input."""


@contextmanager
def shapes_checked(task: nn.Module, model: Spec[Any], vocab: int) -> Iterator[None]:
    """Within the context, an error in the forward pass of a part names the path of the part in the recipe.

    task: a loss module with the model as `task.model`, built from the node `model` of a recipe. Raises `RecipeError` if
    a part returns another shape than its interface requires, and in place of an exception that is not ours.
    """
    nodes = specs_by_path(model, vocab)
    paths = {task.get_submodule(f"model.{at}".rstrip(".")): node_path(model, node) for at, node in nodes.items()}
    running: list[nn.Module] = []

    def where() -> str:
        """The path of the innermost part that is running."""
        found = next((paths[module] for module in reversed(running) if paths.get(module)), "")
        return f"model.{found}".rstrip(".")

    def begin(module: nn.Module, inputs: Any) -> None:
        running.append(module)

    def end(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, SAME_SHAPE) and inputs:
            _require_shape(type(module).__name__, inputs[0], output, where())
        running.pop()

    hooks = [
        hook for m in task.modules() for hook in (m.register_forward_pre_hook(begin), m.register_forward_hook(end))
    ]
    try:
        yield
    except (BitgolfError, OSError, MemoryError):
        raise
    except Exception as error:
        if not running or any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__):
            raise
        message = f"{type(running[-1]).__name__} fails in the forward pass ({type(error).__name__}: {error})"
        raise RecipeError(message, where=where(), hint="--debug shows the traceback") from error
    finally:
        for hook in hooks:
            hook.remove()


def _require_shape(name: str, given: Any, output: Any, where: str) -> None:
    """Raise `RecipeError` unless `output` is a tensor of the shape of `given`, if that is a tensor."""
    if not isinstance(given, Tensor):  # a stream of two lanes
        return
    expected = tuple(given.shape)
    returned = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if returned != expected:
        hint = "its interface requires the shape of its input; see model/interfaces.py"
        raise RecipeError(f"{name} returns {returned} for an input of {expected}", where=where, hint=hint)
