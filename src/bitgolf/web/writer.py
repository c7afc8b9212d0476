"""JavaScript of a recorded step: statements, and the helper functions that they call.

All tensors are in one memory, which the arrays F (float32), D (float64, and integers, exact to 2^53) and B (truth
values) view. An address is an index of the array of its type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bitgolf.errors import BitgolfError
from bitgolf.web.loops import Loop, broadcast, is_contiguous, loops
from bitgolf.web.recording import Operand, Recording

ARRAYS = {torch.float32: "F", torch.float64: "D", torch.int64: "D", torch.int32: "D", torch.bool: "B"}
ITEM_BYTES = {"F": 4, "D": 8, "B": 1}
ALIGNMENT = 16
OPERAND_NAMES = "yabcdefgh"
Value = Operand | float
"""An operand of an elementwise expression: elements of a storage, or a number."""


class ConstantMatrix(NamedTuple):
    """A constant matrix (rows, columns) that products and lookups read: number of the storage."""

    storage: int
    rows: int
    columns: int


class StepWriter:
    """Writes the statements of a step and plans its memory.

    statements: in order.  helpers: name -> source.  addresses: storage -> byte address of those that are computed.
    constants: address -> contiguous tensor.  matrices: in the order of their numbers.
    """

    def __init__(self, record: Recording) -> None:
        self.record = record
        self.statements: list[str] = []
        self.helpers: dict[str, str] = {}
        self.addresses: dict[int, int] = {}
        self.constants: dict[int, Tensor] = {}
        self.matrices: list[ConstantMatrix] = []
        self.bytes = 0
        self._known: dict[Operand, Operand] = {}
        self._arrays: dict[int, str] = {}
        self._numbers: dict[Operand, int] = {}

    def reserve(self, size: int) -> int:
        """Byte address of new memory."""
        address = self.bytes
        self.bytes += -(-size // ALIGNMENT) * ALIGNMENT
        return address

    def array(self, x: Operand) -> str:
        """The array that has the elements of an operand. Raises `BitgolfError` for a type that pages do not have."""
        found = ARRAYS.get(x.dtype)
        if found is None or self._arrays.setdefault(x.storage, found) != found:
            raise BitgolfError(f"tensors of {x.dtype} are not available in a page", hint="use float32")
        return found

    def address(self, x: Operand) -> int:
        """Index of the first element of a computed operand in its array."""
        array = self.array(x)
        if x.storage not in self.addresses:
            stored = self.record.tensors[x.storage].untyped_storage().nbytes() // x.dtype.itemsize
            self.addresses[x.storage] = self.reserve(stored * ITEM_BYTES[array])
        return self.addresses[x.storage] // ITEM_BYTES[array] + x.offset

    def scratch(self, shape: Sequence[int], kind: torch.dtype) -> Operand:
        """Memory for a new contiguous tensor."""
        x = torch.empty(tuple(shape), dtype=kind)
        self.record.computed.add(self.record.storage(x))
        return self.record.operand(x)

    def placed(self, x: Operand) -> Operand:
        """The operand with its address as offset. Constants are copied into the memory once for each view of them."""
        if x.storage in self.record.computed:
            return x._replace(offset=self.address(x))
        if x not in self._known:
            values = self.constant(x)
            array = ARRAYS.get(x.dtype) or self.array(x)
            address = self.reserve(values.numel() * ITEM_BYTES[array])
            self.constants[address] = values
            placed = x._replace(strides=tuple(values.stride()), offset=address // ITEM_BYTES[array])
            self._known[x] = placed
        return self._known[x]

    def constant(self, x: Operand) -> Tensor:
        """The values of a constant operand, contiguous."""
        of = self.record.tensors[x.storage]
        return torch.as_strided(of.detach(), x.shape, x.strides, x.offset).clone(memory_format=torch.contiguous_format)

    def value(self, x: Value) -> Value:
        """A constant of one element as a number; everything else unchanged."""
        if isinstance(x, Operand) and x.storage not in self.record.computed and x.shape == ():
            return self.constant(x).item()
        return x

    def matrix(self, x: Operand) -> int:
        """Number of a constant matrix. Raises `BitgolfError` if it is computed in the step."""
        if x.storage in self.record.computed:
            raise BitgolfError("a matrix that is computed for each token is not available in a page")
        if x not in self._numbers:
            whole = not x.offset and is_contiguous(x) and x.shape == self.record.tensors[x.storage].shape
            storage = x.storage if whole else self.record.storage(self.constant(x))
            self._numbers[x] = len(self.matrices)
            self.matrices.append(ConstantMatrix(storage, *x.shape))
        return self._numbers[x]

    # ---- statements --------------------------------------------------------------------------------------------------

    def call(self, name: str, *arguments: object) -> None:
        self.statements.append(f"{name}({', '.join(map(str, arguments))});")

    def elementwise(self, expression: str, out: Operand, *values: Value, extra: Sequence[str] = ()) -> None:
        """out = expression, with {0}, {1}, … for the values, repeated to the shape of `out`.

        Floats are rounded to the type of `out` once, as the arrays store them. extra: JavaScript added to the address
        of `out` and of each operand, for addresses that are known only in the step.
        """
        operands, texts, known = [out], list[str](), [self.value(x) for x in values]
        kind = (
            next((x.dtype for x in known if isinstance(x, Operand)), out.dtype)
            if out.dtype == torch.bool
            else out.dtype
        )
        for value in known:
            if isinstance(value, Operand):
                texts.append(f"{self.array(value)}[{OPERAND_NAMES[len(operands)]}]")
                operands.append(broadcast(value, out.shape))
            else:
                texts.append(literal(value, kind))
        helper = self._helper(expression.format(*texts), self.array(out), len(operands))
        for loop in loops([self.placed(x) for x in operands]):
            self._call_loop(helper, loop, extra)

    def _call_loop(self, helper: str, loop: Loop, extra: Sequence[str]) -> None:
        added = [*extra, *[""] * (len(loop.starts) - len(extra))]
        places = [f"{start} + {more}" if more else str(start) for start, more in zip(loop.starts, added, strict=True)]
        strided = zip(places, loop.strides, strict=True)
        self.call(helper, *loop.counts, *(f"{place}, {across}, {along}" for place, (across, along) in strided))

    def _helper(self, expression: str, array: str, operands: int) -> str:
        """The function that computes an expression in two loops: its first argument is the operand that it writes."""
        names = OPERAND_NAMES[:operands]
        arguments, outer, start, inner = (
            ", ".join(form.format(n) for n in names) for form in ("{0}0, {0}i, {0}j", "{0}0 += {0}i", "{0} = {0}0", "{0} += {0}j")
        )  # fmt: skip
        source = (
            f"(rows, columns, {arguments}) {{\n"
            f"  for (let i = 0; i < rows; i++, {outer})\n"
            f"    for (let j = 0, {start}; j < columns; j++, {inner}) {array}[{names[0]}] = {expression};\n"
            "}"
        )
        return self.helpers.setdefault(source, f"loop{len(self.helpers)}")


def literal(x: float, kind: torch.dtype) -> str:
    """A number in JavaScript, rounded to float32 beside tensors of that type, as torch rounds it."""
    if kind == torch.float32 and not isinstance(x, (bool, int)):
        x = float(np.float32(x))
    if isinstance(x, bool):
        return "1" if x else "0"
    if x != x or x in (float("inf"), float("-inf")):
        return "NaN" if x != x else "Infinity" if x > 0 else "(-Infinity)"
    return repr(x) if x >= 0 else f"({x!r})"
