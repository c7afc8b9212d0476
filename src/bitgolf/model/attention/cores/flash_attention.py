"""Attention by FlashAttention's own packages (arXiv 2407.08608 and its successor), for windows, documents and segments."""

from __future__ import annotations

from torch import Tensor

from bitgolf.errors import Unsupported
from bitgolf.kernels.flash_attention import flash, package
from bitgolf.model.attention.cores.sdpa import Sdpa
from bitgolf.model.attention.cores.sdpa_backend import as_autocast
from bitgolf.model.attention.cores.varlen import Varlen
from bitgolf.model.forward_context import Bus


class Flash(Varlen):
    """`Varlen` by FlashAttention 3 or 4. Raises `Unsupported` where that version cannot be imported."""

    def __init__(self, plain: Sdpa, version: int) -> None:
        super().__init__(plain)
        try:
            package(version)
        except ImportError as error:
            raise Unsupported(f"FlashAttention {version} cannot be imported") from error
        self.version = version

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bus: Bus) -> Tensor:
        if self.caps:
            return super().forward(q, k, v, bus)
        return flash(*as_autocast(q, k, v), None, q.shape[1], self.width, self.version)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int) -> Tensor:
        return flash(q, k, v, ends, longest, self.width, self.version)
