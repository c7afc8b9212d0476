"""The operators of torch that a page has, and how each is written in JavaScript.

Most are elementwise: an expression. The others call functions of `runtime.js`.
"""

from __future__ import annotations

from typing import Any

import torch

from bitgolf.errors import BitgolfError
from bitgolf.web.movements import cat, embedding, gather, index_copy, index_select, stack
from bitgolf.web.recording import Operand, Operation
from bitgolf.web.sums import (
    Rule,
    attention,
    batched_product,
    linear,
    norm,
    reduce,
    rms_norm,
    scan,
    searchsorted,
)
from bitgolf.web.writer import StepWriter, Value

EXPRESSIONS = {
    "abs": "Math.abs({0})",
    "ceil": "Math.ceil({0})",
    "clamp_max": "Math.min({0}, {1})",
    "clamp_min": "Math.max({0}, {1})",
    "clone": "{0}",
    "cos": "Math.cos({0})",
    "eq": "{0} === {1} ? 1 : 0",
    "exp": "Math.exp({0})",
    "floor": "Math.floor({0})",
    "ge": "{0} >= {1} ? 1 : 0",
    "gt": "{0} > {1} ? 1 : 0",
    "le": "{0} <= {1} ? 1 : 0",
    "log": "Math.log({0})",
    "logical_and": "{0} && {1} ? 1 : 0",
    "logical_not": "{0} ? 0 : 1",
    "logical_or": "{0} || {1} ? 1 : 0",
    "lt": "{0} < {1} ? 1 : 0",
    "masked_fill": "{1} ? {2} : {0}",
    "maximum": "Math.max({0}, {1})",
    "minimum": "Math.min({0}, {1})",
    "ne": "{0} !== {1} ? 1 : 0",
    "neg": "-{0}",
    "pow": "Math.pow({0}, {1})",
    "reciprocal": "1 / {0}",
    "relu": "Math.max({0}, 0)",
    "remainder": "{0} - {1} * Math.floor({0} / {1})",
    "rsqrt": "1 / Math.sqrt({0})",
    "sigmoid": "1 / (1 + Math.exp(-{0}))",
    "sign": "Math.sign({0})",
    "silu": "{0} / (1 + Math.exp(-{0}))",
    "sin": "Math.sin({0})",
    "sqrt": "Math.sqrt({0})",
    "tanh": "Math.tanh({0})",
    "where": "{0} ? {1} : {2}",
}
"""Elementwise operator -> JavaScript of its positional arguments."""


def write_operation(writer: StepWriter, operation: Operation) -> None:
    """Write one operator. Raises `BitgolfError`, with the path of the part, for one that pages do not have."""
    name = operation.name.removesuffix("_") if operation.name != "copy_" else "copy"
    rule, expression = RULES.get(name), EXPRESSIONS.get(name)
    try:
        if rule:
            rule(writer, operation.out[0], *operation.args, **operation.kwargs)
        elif expression and not operation.kwargs.keys() - {"memory_format"}:
            writer.elementwise(expression, operation.out[0], *operation.args)
        else:
            raise BitgolfError(f"a page has no operator {name}")
    except (BitgolfError, TypeError, LookupError) as error:  # the latter two for arguments that no rule knows
        message = error.message if isinstance(error, BitgolfError) else f"a page has no such form of {name} ({error})"
        raise BitgolfError(
            message,
            where=f"the part {operation.part or 'model'} (operator {name})",
            hint="leave the part out of the recipe; `bitgolf generate` runs every model",
        ) from error


# ---- elementwise with options ----------------------------------------------------------------------------------------


def _add(writer: StepWriter, out: Operand, a: Value, b: Value, *, alpha: float = 1) -> None:
    writer.elementwise("{0} + {1}" if alpha == 1 else "{0} + {2} * {1}", out, a, b, *[alpha] * (alpha != 1))


def _sub(writer: StepWriter, out: Operand, a: Value, b: Value, *, alpha: float = 1) -> None:
    writer.elementwise("{0} - {1}" if alpha == 1 else "{0} - {2} * {1}", out, a, b, *[alpha] * (alpha != 1))


def _rsub(writer: StepWriter, out: Operand, a: Value, b: Value, alpha: float = 1) -> None:
    _sub(writer, out, b, a, alpha=alpha)


def _div(writer: StepWriter, out: Operand, a: Value, b: Value, *, rounding_mode: str | None = None) -> None:
    forms = {None: "{0} / {1}", "floor": "Math.floor({0} / {1})", "trunc": "Math.trunc({0} / {1})"}
    writer.elementwise(forms[rounding_mode], out, a, b)


def _clamp(writer: StepWriter, out: Operand, x: Value, low: Value | None = None, high: Value | None = None) -> None:
    lowest, highest = float("-inf") if low is None else low, float("inf") if high is None else high
    writer.elementwise("Math.min(Math.max({0}, {1}), {2})", out, x, lowest, highest)


def _pow(writer: StepWriter, out: Operand, x: Value, exponent: Value) -> None:
    square = not isinstance(exponent, Operand) and exponent == 2
    writer.elementwise("{0} * {0}", out, x) if square else writer.elementwise("Math.pow({0}, {1})", out, x, exponent)


def _mul(writer: StepWriter, out: Operand, a: Value, b: Value) -> None:
    writer.elementwise("{0} * {1}" if out.dtype.is_floating_point else "whole({0} * {1})", out, a, b)


def _bitwise(sign: str) -> Rule:
    """A rule for integers of any size, since JavaScript's own operators keep 32 bits."""

    def rule(writer: StepWriter, out: Operand, a: Value, b: Value) -> None:
        form = "{0} %s {1}" if out.dtype == torch.bool else "Number(BigInt({0}) %s BigInt({1}))"
        writer.elementwise(form % sign, out, a, b)

    return rule


def _bitwise_not(writer: StepWriter, out: Operand, x: Value) -> None:
    writer.elementwise("1 - {0}" if out.dtype == torch.bool else "-{0} - 1", out, x)


def _leaky_relu(writer: StepWriter, out: Operand, x: Value, negative_slope: float = 0.01) -> None:
    writer.elementwise("{0} > 0 ? {0} : {0} * {1}", out, x, negative_slope)


def _convert(writer: StepWriter, out: Operand, x: Operand, **_: Any) -> None:
    """A conversion to the type of `out`; integers of 32 bits keep the low bits."""
    forms = {torch.bool: "{0} !== 0 ? 1 : 0", torch.int64: "Math.trunc({0})", torch.int32: "Math.trunc({0}) | 0"}
    writer.elementwise(forms.get(out.dtype, "{0}"), out, x)


def _copy(writer: StepWriter, out: Operand, _: Operand, source: Value, non_blocking: bool = False) -> None:
    if isinstance(source, Operand):
        _convert(writer, out, source)
    else:
        writer.elementwise("{0}", out, source)


def _fill(writer: StepWriter, out: Operand, _: Operand, value: Value = 0) -> None:
    writer.elementwise("{0}", out, value)


RULES: dict[str, Rule] = {
    "_to_copy": _convert,
    "add": _add,
    "amax": reduce("largest"),
    "bitwise_and": _bitwise("&"),
    "bitwise_not": _bitwise_not,
    "bitwise_or": _bitwise("|"),
    "bitwise_xor": _bitwise("^"),
    "bmm": batched_product,
    "cat": cat,
    "clamp": _clamp,
    "copy": _copy,
    "cummax": scan("cumulativeMax"),
    "cumsum": scan("cumulativeSum"),
    "div": _div,
    "embedding": embedding,
    "fill": _fill,
    "gather": gather,
    "index_copy": index_copy,
    "index_select": index_select,
    "leaky_relu": _leaky_relu,
    "linalg_vector_norm": norm,
    "linear": linear,
    "mean": reduce("mean"),
    "mm": batched_product,
    "mul": _mul,
    "pow": _pow,
    "rms_norm": rms_norm,
    "rsub": _rsub,
    "scaled_dot_product_attention": attention,
    "searchsorted": searchsorted,
    "stack": stack,
    "sub": _sub,
    "sum": reduce("sum"),
    "zero": _fill,
}
"""Operator -> rule, for those that are not in `EXPRESSIONS`."""
