"""The context that a part of a model is built with, beside the arguments that the recipe gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from bitgolf.config.spec import Spec


class BuildContext(NamedTuple):
    """Sizes of the model, index of the layer, and shape and name of the matrix that a part is built for.

    A size of 0 and a layer of -1 mean that the value is not known at this level of the model.
    """

    vocab: int
    bos: int = 1
    dim: int = 0
    layers: int = 0
    layer: int = -1
    heads: int = 0
    kv_heads: int = 0
    fan_in: int = 0
    fan_out: int = 0
    zero_init: bool = False  # initialize this matrix to zero, so that its residual block starts as the identity
    matrix_name: str = ""  # q, k, v, qkv, out, up, gate, gate_up or down
    record: dict[object, Spec[Any]] | None = None  # if given, filled during construction: part -> its node

    def for_matrix(self, fan_in: int, fan_out: int, *, zero: bool = False, name: str = "") -> BuildContext:
        """Return the context of a matrix with `fan_in` columns and `fan_out` rows."""
        return self._replace(fan_in=fan_in, fan_out=fan_out, zero_init=zero, matrix_name=name)
