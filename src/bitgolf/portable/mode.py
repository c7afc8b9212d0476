"""The context in which a model computes in portable arithmetic.

Operators are intercepted: a function mode replaces three functions that torch may divide into operators in more than
one way, and a dispatch mode all other operators. An operator is left to torch (`exact_operators`), replaced by a kernel
(`functions`), or refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bitgolf.errors import BitgolfError
from bitgolf.portable.exact_operators import EXACT
from bitgolf.portable.functions import PortableFunctions, clamp

Operator = Callable[..., Any]
WITH_FACTOR = "add", "add_", "sub", "sub_", "rsub"


@contextmanager
def portable_arithmetic() -> Iterator[None]:
    """Compute in portable arithmetic, without gradients, in this thread.

    Raises `BitgolfError` if this machine's results differ from the known answers (`known_answers`), and inside the
    context for an operator that is not portable.
    """
    from bitgolf.portable.known_answers import check_known_answers

    functions = PortableFunctions()
    try:
        with torch.no_grad(), DispatchedOperators(functions), ReplacedFunctions(functions):
            check_known_answers()
            yield
    finally:
        functions.close()


class ReplacedFunctions(TorchFunctionMode):
    """Replaces functions of torch as a whole: linear layers, RMS normalization and attention."""

    def __init__(self, functions: PortableFunctions) -> None:
        super().__init__()
        self._functions = functions
        self._replaced: dict[Any, Operator] = {
            F.linear: functions.linear,
            F.rms_norm: self._rms_norm,
            F.scaled_dot_product_attention: self._attention,
        }

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        replacement = self._replaced.get(func)
        return (func if replacement is None else replacement)(*args, **(kwargs or {}))

    def _rms_norm(
        self, x: Tensor, normalized_shape: list[int], weight: Tensor | None = None, eps: float | None = None
    ) -> Tensor:
        if tuple(normalized_shape) != tuple(x.shape[-1:]):
            raise BitgolfError("portable arithmetic computes rms_norm over the last axis only", hint="use --native")
        y = self._functions.rms_norm(x, torch.finfo(x.dtype).eps if eps is None else eps)
        return y if weight is None else y * weight

    def _attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if dropout_p:
            raise BitgolfError("portable arithmetic has no dropout", where="scaled_dot_product_attention")
        factor = float(q.shape[-1] ** -0.5) if scale is None else scale
        return self._functions.attention(q, k, v, attn_mask, is_causal, factor)


class DispatchedOperators(TorchDispatchMode):
    """Leaves exact operators to torch, replaces others by kernels, and refuses the rest by name."""

    def __init__(self, functions: PortableFunctions) -> None:
        super().__init__()
        self._replaced, self._rules = replaced_operators(functions), dict[Any, Operator]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False, so that torch does not import its compiler, which takes a second, and no call passes through it."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = self._rules.get(func)
        if rule is None:
            rule = self._rules[func] = self._rule(func)
        return rule(*args, **(kwargs or {}))

    def _rule(self, func: Any) -> Operator:
        """The function to call for an operator."""
        name = func.name().removeprefix("aten::").partition(".")[0]
        if name in WITH_FACTOR:
            return lambda *args, **kwargs: _without_factor(func, args, kwargs)
        if name in self._replaced:
            replacement = self._replaced[name]
            return lambda *args, **kwargs: (
                replacement(*args, **kwargs) if any(map(_is_float, args)) else _integers_only(func, args, kwargs)
            )
        if name in ("index_put", "index_put_"):
            return lambda *args, **kwargs: _index_put(func, args, kwargs)
        if name == "arange":
            return lambda *args, **kwargs: _arange(func, args, kwargs)
        if name in EXACT and (name not in ("div", "div_") or func._overloadname in ("Tensor", "Scalar")):
            return func
        return lambda *args, **kwargs: _integers_only(func, args, kwargs)


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype.is_floating_point


def _has_floats(values: Any) -> bool:
    """Whether a tensor of floats is among values, nested ones included."""
    return any(map(_is_float, tree_leaves(values)))


def _without_factor(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """a + alpha b with a product of its own: torch may fuse it with the addition."""
    first, second, *rest = args
    factor = kwargs.pop("alpha", rest[0] if rest else 1)
    if factor == 1:
        return func(first, second, **kwargs)
    if func.name().startswith("aten::rsub"):
        return torch.sub(second, first * factor)
    return func(first, second * factor, **kwargs)


def _integers_only(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operator on integers and truth values, which is exact. Raises `BitgolfError` for one on floats."""
    if not _has_floats((args, kwargs)):
        result = func(*args, **kwargs)
        if not _has_floats(result):
            return result
    cause = f"the operator {func.name()} has no portable form"
    raise BitgolfError(cause, where="portable arithmetic", hint="--native computes with torch, on this machine only")


def replaced_operators(functions: PortableFunctions) -> dict[str, Operator]:
    """The operators of torch that kernels replace for floats, by name without overload."""
    f, kernels = functions, functions.kernels
    return {
        "exp": f.elementwise(kernels.exp, "exp"),
        "log": f.elementwise(kernels.log, "log"),
        "sigmoid": f.elementwise(kernels.sigmoid, "sigmoid"),
        "silu": f.elementwise(kernels.silu, "silu"),
        "tanh": f.elementwise(kernels.tanh, "tanh"),
        "sin": lambda x: f.sine(x, 0, "sin"),
        "cos": lambda x: f.sine(x, 1, "cos"),
        "relu": lambda x: clamp(x, 0.0),
        "clamp": clamp,
        "clamp_min": clamp,
        "clamp_max": lambda x, highest: clamp(x, None, highest),
        "maximum": clamp,
        "minimum": lambda x, y: clamp(x, None, y),
        "sqrt": f.elementwise(kernels.square_root, "sqrt"),
        "rsqrt": f.elementwise(kernels.inverse_root, "rsqrt"),
        "pow": f.power,
        "sum": lambda x, dim=None, keepdim=False, *, dtype=None: f.sum(_cast(x, dtype), dim, keepdim),
        "mean": lambda x, dim=None, keepdim=False, *, dtype=None: f.sum(_cast(x, dtype), dim, keepdim, mean=True),
        "linalg_vector_norm": lambda x, order=2, dim=None, keepdim=False, *, dtype=None: _norm(
            f, _cast(x, dtype), order, dim, keepdim
        ),
        "_softmax": lambda x, dim, half_to_float: f.softmax(x, dim, logarithm=False),
        "_log_softmax": lambda x, dim, half_to_float: f.softmax(x, dim, logarithm=True),
        "cumsum": lambda x, dim, *, dtype=None: f.cumulative_sum(_cast(x, dtype), dim),
        "mm": f.matrix_product,
        "bmm": f.matrix_product,
        "addmm": lambda bias, a, b, *, beta=1, alpha=1: _add_product(f, bias, a, b, beta, alpha),
    }


def _cast(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return x if dtype is None else x.to(dtype)


def _index_put(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Raises `BitgolfError` for sums of floats at equal indices, whose order torch does not fix."""
    if (kwargs.get("accumulate") or (len(args) > 3 and args[3])) and _is_float(args[0]):
        raise BitgolfError("portable arithmetic has no aten::index_put with accumulate", hint="use --native")
    return func(*args, **kwargs)


def _arange(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Integers, also as floats. Raises `BitgolfError` for fractions, which torch may round in several ways."""
    if any(float(x) % 1 for x in args):
        raise BitgolfError(f"portable arithmetic has arange of integers only, got {args}", hint="use --native")
    return func(*args, **kwargs)


def _norm(functions: PortableFunctions, x: Tensor, order: float, axes: list[int] | None, keepdim: bool) -> Tensor:
    if order != 2:
        raise BitgolfError(f"portable arithmetic has the norm of order 2 only, got {order}", hint="use --native")
    return functions.norm(x, axes, keepdim)


def _add_product(functions: PortableFunctions, bias: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> Tensor:
    if beta != 1 or alpha != 1:
        raise BitgolfError(
            f"portable arithmetic has addmm without factors only, got {beta} and {alpha}", hint="use --native"
        )
    return functions.matrix_product(a, b) + bias
