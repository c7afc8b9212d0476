"""Selection of the coder with the smallest stream, without running slow coders that an estimate rules out.

Brotli at quality 11 takes about one second per megabyte, and its streams of quantized weights are 0.8 to 1.4 % larger
than those of range coding. The compression ratio of a sample predicts this (`byte_coders.estimate_size`).
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
"""Relative amount by which an estimated size may exceed the true size."""


@register
class SmallestCoder(Coder):
    """Uses the coder in `coders` with the smallest stream, the first one in case of a tie. One byte stores its index.

    Slow coders are skipped if an estimate rules them out; see `candidate_streams`.
    """

    name: ClassVar[str] = "smallest"

    def __init__(
        self, *, coders: tuple[Spec[Coder], ...] = (part(RangeCoder), part(Brotli), part(LZMA), part(Raw))
    ) -> None:
        if not 1 <= len(coders) <= 256:
            raise RecipeError(f"coders must have 1 to 256 entries, got {len(coders)}", where="SmallestCoder.coders")
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
        return self._selected(data).decode_arrays(data[1:], dtype, shapes)

    def label(self, data: bytes) -> str:
        return self._selected(data).label(data[1:])

    def _selected(self, data: bytes) -> Coder:
        if not data:
            raise CorruptFileError("the stream is empty, expected the index of a coder")
        if data[0] >= len(self.coders):
            raise CorruptFileError(f"the stream uses coder {data[0]}, but the recipe has {len(self.coders)} coders")
        return self.coders[data[0]]


def candidate_streams(coders: Sequence[Coder], arrays: Sequence[Array]) -> dict[int, bytes]:
    """The streams of all coders that may be the smallest: index of the coder -> stream, in the order of the coders.

    A coder is left out if its estimated size exceeds the size of another coder's stream by more than `MARGIN`. The
    result therefore lacks the smallest stream only if an estimate is too high by more than the margin.
    """

    def encode_or_estimate(coder: Coder) -> bytes | float:
        size = coder.estimate(arrays)
        return coder.encode_arrays(arrays) if size is None else size

    found = dict(enumerate(parallel_map(encode_or_estimate, coders)))
    coded = {i: data for i, data in found.items() if isinstance(data, bytes)}
    estimates = {i: size for i, size in found.items() if isinstance(size, float)}
    if not coded:
        likeliest = min(estimates, key=estimates.__getitem__)
        coded[likeliest] = coders[likeliest].encode_arrays(arrays)
    least = min(map(len, coded.values()))
    close = [i for i, size in estimates.items() if i not in coded and size * (1 - MARGIN) <= least]
    slow = parallel_map(lambda i: coders[i].encode_arrays(arrays), close)
    return dict(sorted((coded | dict(zip(close, slow, strict=True))).items()))
