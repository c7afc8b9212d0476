"""The smallest of several coders' streams, without running a slow coder that is clearly behind.

Brotli at quality 11 takes about a second for a megabyte, and on quantized weights it is 0.8 to 1.4 % behind range coding. The
rate of a sample says so (`byte_coders.estimate_size`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import CorruptFileError, RecipeError
from bitgolf.pack.byte_coders import LZMA, Brotli, Raw
from bitgolf.pack.byte_planes import Array
from bitgolf.pack.coders import Coder, RangeCoder
from bitgolf.pack.parallel import parallel_map

MARGIN = 0.005
"""An estimate may be too high by this share."""


@register
class SmallestCoder(Coder):
    """Whichever of `coders` makes the fewest bytes (the first of equals), named by one byte in front.

    Slow ones that an estimate puts clearly behind are not run (`candidate_streams`).
    """

    name: ClassVar[str] = "smallest"

    def __init__(
        self, *, coders: tuple[Spec[Coder], ...] = (part(RangeCoder), part(Brotli), part(LZMA), part(Raw))
    ) -> None:
        if not 1 <= len(coders) <= 256:
            raise RecipeError(
                f"SmallestCoder chooses among 1 to 256 coders, not {len(coders)}", where="SmallestCoder.coders"
            )
        self.coders = [coder() for coder in coders]

    def encode(self, symbols: Array) -> bytes:
        return self.encode_arrays([symbols])

    def decode(self, data: bytes, dtype: np.dtype[Any], count: int) -> Array:
        return self.decode_arrays(data, dtype, [(count,)])[0]

    def encode_arrays(self, arrays: Sequence[Array]) -> bytes:
        streams = candidate_streams(self.coders, arrays)
        best = min(streams, key=lambda i: len(streams[i]))
        return bytes([best]) + streams[best]

    def decode_arrays(self, data: bytes, dtype: np.dtype[Any], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        return self._chosen(data).decode_arrays(data[1:], dtype, shapes)

    def label(self, data: bytes) -> str:
        return self._chosen(data).label(data[1:])

    def _chosen(self, data: bytes) -> Coder:
        if not data or data[0] >= len(self.coders):
            raise CorruptFileError("names no known coder")
        return self.coders[data[0]]


def candidate_streams(coders: Sequence[Coder], arrays: Sequence[Array]) -> dict[int, bytes]:
    """By the coder's index, in order, the streams among which the smallest is.

    A coder whose estimate is more than `MARGIN` above what another one really makes is left out. So the smallest of these
    is larger than that of all only where an estimate is too high by more than the margin, and then by no more than that.
    """

    def first(coder: Coder) -> bytes | float:
        about = coder.estimate(arrays)
        return coder.encode_arrays(arrays) if about is None else about

    found = dict(enumerate(parallel_map(first, coders)))
    coded = {i: data for i, data in found.items() if isinstance(data, bytes)}
    about = {i: size for i, size in found.items() if isinstance(size, float)}
    if not coded:
        likeliest = min(about, key=about.__getitem__)
        coded[likeliest] = coders[likeliest].encode_arrays(arrays)
    least = min(map(len, coded.values()))
    close = [i for i, size in about.items() if i not in coded and size * (1 - MARGIN) <= least]
    slow = parallel_map(lambda i: coders[i].encode_arrays(arrays), close)
    return dict(sorted((coded | dict(zip(close, slow, strict=True))).items()))
