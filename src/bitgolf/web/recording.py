"""Recording of a forward pass: the operators of torch that it executes, with the memory that they read and write.

The pass is executed once on real tensors. Operators on parameters and constants alone are not recorded, since their
results are constants, and neither are views, since a recorded operand states which elements of which storage it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from bitgolf.errors import BitgolfError

WHOLE: Mapping[Any, str] = {
    F.linear: "linear",
    F.rms_norm: "rms_norm",
    F.scaled_dot_product_attention: "scaled_dot_product_attention",
}
"""Functions that are recorded as one operator, not as those that torch divides them into."""
READS = "_local_scalar_dense", "equal", "nonzero", "is_nonzero", "masked_select"
"""Operators by which a program could depend on values; a recording has only the way that one step takes."""
FACTORIES = "empty_like", "full_like", "new_empty", "new_full", "new_ones", "new_zeros", "ones_like", "zeros_like"
"""Operators that read no values of their argument: the result is a constant."""


class Operand(NamedTuple):
    """Elements of a storage: (number of the storage, offset, sizes and strides in elements, type)."""

    storage: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


class Operation(NamedTuple):
    """One recorded operator. name: without `aten::` and overload. out: what it writes. part: path of the part."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: tuple[Operand, ...]
    part: str


class Recording:
    """What one step computes.

    operations: in order.  variables: storages that keep their values from step to step, or are set from outside.
    tensors: a tensor of each storage, which has the values of a constant.  sizes: of the storages, in elements.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.tensors: list[Tensor] = []
        self.computed: set[int] = set()  # storages whose values change from step to step
        self.states: dict[Any, Tensor] = {}
        self.read: set[int] = set()  # storages that an operator has read
        self._numbers: dict[int, int] = {}

    def storage(self, x: Tensor) -> int:
        """Number of the storage of a tensor. Tensors are kept, so that no storage is freed and its address used again."""
        found = self._numbers.setdefault(x.untyped_storage()._cdata, len(self.tensors))
        if found == len(self.tensors):
            self.tensors.append(x)
        return found

    def operand(self, x: Tensor) -> Operand:
        return Operand(self.storage(x), int(x.storage_offset()), tuple(x.shape), tuple(x.stride()), x.dtype)

    def variable(self, key: Any, shape: tuple[int, ...], kind: torch.dtype) -> Tensor:
        """The state of a key, initially zero, as `StepContext` needs it."""
        if key not in self.states:
            self.states[key] = torch.zeros(shape, dtype=kind)
            self.computed.add(self.storage(self.states[key]))
        return self.states[key]

    def is_computed(self, x: Any) -> bool:
        return isinstance(x, Tensor) and self.storage(x) in self.computed

    def add(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], results: Any, part: str) -> None:
        """Record an operator with its results, unless it only makes a view."""
        given = [x for x in tree_leaves((args, dict(kwargs))) if isinstance(x, Tensor)]
        outputs = [x for x in tree_leaves(results) if isinstance(x, Tensor)]
        before = {self.storage(x) for x in given}
        if not name.endswith("_") and all(self.storage(x) in before for x in outputs):
            return  # a view
        self.read |= before
        self.computed.update(self.storage(x) for x in outputs)
        written = tuple(map(self.operand, outputs))
        self.operations.append(Operation(name, self._operands(args), self._operands(dict(kwargs)), written, part))

    def _operands(self, arguments: Any) -> Any:
        """Arguments, also nested ones, with operands in place of tensors."""
        return tree_map(lambda x: self.operand(x) if isinstance(x, Tensor) else x, arguments)


@contextmanager
def recording(model: nn.Module) -> Iterator[Recording]:
    """Record the operators that are executed inside, with the paths of the parts of `model` that execute them."""
    record, path = Recording(), list[str]()
    hooks = [
        hook
        for name, part in model.named_modules()
        for hook in (
            part.register_forward_pre_hook(lambda *_, name=name: path.append(name)),
            part.register_forward_hook(lambda *_: path.pop() and None),
        )
    ]
    operators = RecordedOperators(record, path)
    try:
        with torch.no_grad(), operators, RecordedFunctions(operators):
            yield record
    finally:
        for hook in hooks:
            hook.remove()


class RecordedOperators(TorchDispatchMode):
    """Executes operators and records those that depend on a state or an input."""

    def __init__(self, record: Recording, path: list[str]) -> None:
        super().__init__()
        self.record, self.path, self.inside_whole = record, path, False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False, so that torch does not import its compiler, which takes a second."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.name().removeprefix("aten::").partition(".")[0]
        computed = any(map(self.record.is_computed, tree_leaves((args, kwargs))))
        if self.inside_whole or name in FACTORIES or not computed:
            return func(*args, **kwargs)
        part = self.path[-1] if self.path else ""
        if name in READS:
            raise BitgolfError(
                "it reads computed values in Python, which a recording of one step cannot repeat", where=part or "model"
            )
        if name.endswith("_") and not self.record.is_computed(args[0]):
            if self.record.storage(args[0]) in self.record.read:
                raise BitgolfError("it changes a constant that was read before", where=part or "model")
            size = args[0].untyped_storage().nbytes() // args[0].element_size()
            whole = torch.as_strided(args[0], (size,), (1,), 0)  # the storage: every step begins with these values
            self.record.add("copy_", (whole, whole.clone()), {}, whole, part)
        results = func(*args, **kwargs)
        self.record.add(name, args, kwargs, results, part)
        return results


class RecordedFunctions(TorchFunctionMode):
    """Records the functions of `WHOLE`."""

    def __init__(self, operators: RecordedOperators) -> None:
        super().__init__()
        self.operators = operators

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, own = kwargs or {}, self.operators
        name, record = WHOLE.get(func), own.record
        if name is None or own.inside_whole or not any(map(record.is_computed, tree_leaves((args, kwargs)))):
            return func(*args, **kwargs)
        own.inside_whole = True
        try:
            result = func(*args, **kwargs)
        finally:
            own.inside_whole = False
        record.add(name, args, kwargs, result, own.path[-1] if own.path else "")
        return result
