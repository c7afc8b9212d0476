"""Where a part of a model sits: the only thing that every part is told when it is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from bitgolf.config.spec import Spec


class BuildContext(NamedTuple):
    """Sizes of the model, index of the layer, and shape and name of the matrix that a part is built for."""

    vocab: int
    bos: int = 1
    dim: int = 0
    layers: int = 0
    layer: int = -1
    heads: int = 0
    kv_heads: int = 0
    fan_in: int = 0
    fan_out: int = 0
    zero_init: bool = False  # this matrix starts at zero, so that its branch starts as the identity
    matrix_name: str = ""  # which of its owner's matrices: q, k, v, out, up, gate, down
    record: dict[object, Spec[Any]] | None = None  # filled while a model is built: each part and its node of the recipe

    def for_matrix(self, fan_in: int, fan_out: int, *, zero: bool = False, name: str = "") -> BuildContext:
        return self._replace(fan_in=fan_in, fan_out=fan_out, zero_init=zero, matrix_name=name)
