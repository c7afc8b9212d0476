"""Functions of tensors on the kernels: what portable arithmetic computes in place of torch's operators.

Tensors are on the CPU, and float32 where nothing else is said; others raise `BitgolfError`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from bitgolf.errors import BitgolfError
from bitgolf.portable.elementary import LARGEST_ANGLE
from bitgolf.portable.kernels import Kernel, compiled_kernels
from bitgolf.portable.products import pack_columns
from bitgolf.portable.threads import WorkerThreads

Array = NDArray[Any]


def contiguous_array(x: Tensor, name: str, dtypes: Sequence[torch.dtype] = (torch.float32,)) -> Array:
    """A contiguous tensor as an array that shares its memory. Raises `BitgolfError` for another type or device."""
    if x.dtype not in dtypes or x.device.type != "cpu":
        kinds = " or ".join(str(kind).removeprefix("torch.") for kind in dtypes)
        kind = str(x.dtype).removeprefix("torch.")
        cause = f"portable arithmetic computes {name} of {kinds} tensors on the CPU, got {kind} on {x.device}"
        raise BitgolfError(cause, hint="--native computes with torch")
    return (x.detach() if x.requires_grad else x).contiguous().numpy()


def clamp(x: Tensor, lowest: Tensor | float | None = None, highest: Tensor | float | None = None) -> Tensor:
    """x between two limits, by comparisons. A zero keeps its sign, and NaN stays NaN."""
    if lowest is not None:
        x = torch.where(x < lowest, lowest, x)
    return x if highest is None else torch.where(x > highest, highest, x)


class PortableFunctions:
    """The functions of one session. It keeps the packed columns of parameters, and threads until `close`."""

    def __init__(self) -> None:
        self.kernels, self.threads = compiled_kernels(), WorkerThreads()
        self._packed = WeakIdKeyDictionary()  # parameter -> (version, panels)

    def close(self) -> None:
        """End the threads, and forget packed parameters."""
        self.threads.close()
        self._packed.clear()

    # ---- elementwise ------------------------------------------------------------------------------------------------

    def elementwise(self, kernel: Kernel, name: str) -> Callable[[Tensor], Tensor]:
        """The function of a tensor that a kernel computes for each element."""

        def apply(x: Tensor) -> Tensor:
            source = contiguous_array(x, name)
            out = np.empty_like(source)
            kernel(source.reshape(-1), out.reshape(-1))
            return torch.from_numpy(out)

        return apply

    def sine(self, x: Tensor, quarter_turns: int, name: str) -> Tensor:
        """sin(x + quarter_turns * pi / 2) of float32 or float64. Raises `BitgolfError` for |x| above `LARGEST_ANGLE`."""
        source = contiguous_array(x, name, (torch.float32, torch.float64)).astype(np.float64)
        if not (np.abs(source) <= LARGEST_ANGLE).all():
            cause = f"portable arithmetic computes {name} of angles up to {LARGEST_ANGLE:,.0f} radians only"
            raise BitgolfError(cause, hint="use a shorter window, or --native")
        out = np.empty_like(source)
        self.kernels.sine(source.reshape(-1), quarter_turns, out.reshape(-1))
        return torch.from_numpy(out).to(x.dtype)

    def power(self, base: Tensor | float, exponent: Tensor | float) -> Tensor:
        """base ** exponent, where one of the two is a number. Negative bases give NaN except for the exponents below."""
        simple = {
            2: lambda x: x * x,
            3: lambda x: x * x * x,
            -1: torch.reciprocal,
            0.5: self.elementwise(self.kernels.square_root, "sqrt"),
            -0.5: self.elementwise(self.kernels.inverse_root, "rsqrt"),
        }
        if isinstance(base, Tensor) and exponent in simple:
            return simple[exponent](base)
        arrays = [
            contiguous_array(x if isinstance(x, Tensor) else torch.tensor([x], dtype=torch.float32), "power")
            for x in (base, exponent)
        ]
        out = np.empty(np.broadcast_shapes(*(a.shape for a in arrays if a.size != 1 or a.ndim != 1)), np.float32)
        self.kernels.power(*(a.reshape(-1) for a in arrays), out.reshape(-1))
        return torch.from_numpy(out)

    # ---- reductions -------------------------------------------------------------------------------------------------

    def sum(self, x: Tensor, axes: Sequence[int] | None, keepdim: bool, *, mean: bool = False) -> Tensor:
        """Sum or mean over some axes; all of them for None or an empty list."""
        rows, shape = _rows(x, axes, keepdim, "sum")
        out = np.empty(len(rows), np.float32)
        self.kernels.sum(rows, False, float(rows.shape[1] if mean else 1), out)
        return torch.from_numpy(out).reshape(shape)

    def norm(self, x: Tensor, axes: Sequence[int] | None, keepdim: bool) -> Tensor:
        """Euclidean norm over some axes."""
        rows, shape = _rows(x, axes, keepdim, "norm")
        out = np.empty(len(rows), np.float32)
        self.kernels.norm(rows, out)
        return torch.from_numpy(out).reshape(shape)

    def rms_norm(self, x: Tensor, epsilon: float) -> Tensor:
        """x / sqrt(mean(x^2) + epsilon) over the last axis."""
        source = contiguous_array(x, "rms_norm")
        out = np.empty_like(source)
        self.kernels.rms_norm(source.reshape(-1, x.shape[-1]), epsilon, out.reshape(-1, x.shape[-1]))
        return torch.from_numpy(out)

    def softmax(self, x: Tensor, axis: int, *, logarithm: bool) -> Tensor:
        """Softmax over an axis, or its logarithm."""
        moved = x.movedim(axis, -1)
        source = contiguous_array(moved, "softmax").reshape(-1, moved.shape[-1])
        out = np.empty_like(source)
        self.kernels.softmax(source, source.max(1, initial=-np.inf), logarithm, out)
        return torch.from_numpy(out).reshape(moved.shape).movedim(-1, axis)

    def cumulative_sum(self, x: Tensor, axis: int) -> Tensor:
        """Cumulative sum along an axis."""
        source, axis = contiguous_array(x, "cumsum"), axis % x.ndim
        out = np.empty_like(source)
        shape = int(np.prod(x.shape[:axis])), x.shape[axis], int(np.prod(x.shape[axis + 1 :]))
        if out.size:
            self.kernels.cumulative_sum(source.reshape(shape), out.reshape(shape))
        return torch.from_numpy(out)

    # ---- products ---------------------------------------------------------------------------------------------------

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (…, K) times the transpose of weight (N, K), plus a bias (N,)."""
        out = self._product(contiguous_array(x, "linear").reshape(-1, x.shape[-1]), self._panels(weight), len(weight))
        y = torch.from_numpy(out).reshape(*x.shape[:-1], len(weight))
        return y if bias is None else y + bias

    def matrix_product(self, a: Tensor, b: Tensor) -> Tensor:
        """a (M, K) times b (K, N), or a batch of them: (B, M, K) and (B, K, N)."""
        if a.ndim == 3:
            products = [self.matrix_product(x, y) for x, y in zip(a, b, strict=True)]
            return torch.stack(products) if products else a.new_zeros(0, a.shape[1], b.shape[2])
        panels = pack_columns(contiguous_array(b, "matrix product"))
        return torch.from_numpy(self._product(contiguous_array(a, "matrix product"), panels, b.shape[1]))

    def _product(self, a: Array, panels: Array, columns: int) -> Array:
        """a (M, K) times packed columns: (M, N). Threads share the panels, or the rows if there are more of these."""
        out, rows, count = np.empty((len(a), columns), np.float32), len(a), len(panels)
        multiply, by_rows = self.kernels.product, rows >= 8 * count

        def task(first: int, last: int) -> None:
            ranges = (first, last, 0, count) if by_rows else (0, rows, first, last)
            multiply(a, panels, out, *ranges)

        self.threads.run(task, rows if by_rows else count, rows * a.shape[1] * columns)
        return out

    def _panels(self, weight: Tensor) -> Array:
        """`pack_columns` of the transpose of a weight. That of a parameter is kept until its values change."""
        kept = self._packed.get(weight)
        if kept and kept[0] == weight._version:
            return kept[1]
        panels = pack_columns(contiguous_array(weight, "linear").T)
        if isinstance(weight, nn.Parameter):
            self._packed[weight] = weight._version, panels
        return panels

    def attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
        """softmax(q k^T scale) v: q (B, H, T, d), k and v (B, G, S, d), boolean mask broadcast to (B, H, T, S).

        causal: query t attends to keys 0 … t.  Raises `BitgolfError` for a mask that is not boolean.
        """
        batch, heads, queries, channels = q.shape
        groups, keys = k.shape[1:3]
        if mask is None:
            mask = torch.ones(queries, keys, dtype=torch.bool)
        mask = (mask.tril() if causal else mask).expand(*mask.shape[:-1], keys)
        allowed = contiguous_array(mask, "attention masks", (torch.bool,)).view(np.uint8)
        allowed = allowed.reshape((1,) * (4 - allowed.ndim) + allowed.shape)
        flat = [_flat(x, "attention") for x in (q, k, v)]
        strides = np.array([x.stride()[:3] for x, _ in flat] + [(groups, channels, 0)], np.int64)
        out = np.empty((batch, queries, heads, v.shape[-1]), np.float32)
        arrays = [storage for _, storage in flat]

        def task(first: int, last: int) -> None:
            self.kernels.attention(*arrays, allowed, strides, np.float32(scale), out, first, last)

        self.threads.run(task, batch * groups, 2 * q.numel() * keys)
        return torch.from_numpy(out).transpose(1, 2)


def _flat(x: Tensor, name: str) -> tuple[Tensor, Array]:
    """A tensor whose last axis is contiguous, and its storage from its first element on as a flat array."""
    x = x if x.stride(-1) == 1 and x.dtype == torch.float32 else x.contiguous()
    size = 1 + sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True)) if x.numel() else 0
    return x, contiguous_array(x.as_strided((size,), (1,)), name)


def _rows(x: Tensor, axes: Sequence[int] | None, keepdim: bool, name: str) -> tuple[Array, list[int]]:
    """The elements that are summed as rows, (R, n), and the shape of the result."""
    summed = {axis % x.ndim for axis in axes} if axes else set(range(x.ndim))
    kept = [axis for axis in range(x.ndim) if axis not in summed]
    shape = [1 if axis in summed else n for axis, n in enumerate(x.shape) if keepdim or axis not in summed]
    rows = int(np.prod([x.shape[axis] for axis in kept]))
    count = int(np.prod([x.shape[axis] for axis in sorted(summed)]))
    return contiguous_array(x.permute(*kept, *sorted(summed)), name).reshape(rows, count), shape
