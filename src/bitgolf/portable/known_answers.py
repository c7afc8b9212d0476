"""A self-test: results on fixed inputs are compared with digests of what every machine must compute.

It takes a few milliseconds and finds a compiler that fuses or reorders operations, a processor that flushes denormal
numbers to zero, and a torch that divides a function into other operators.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.errors import BitgolfError

NAME = "portable-1"
"""Name of the arithmetic. Another value of any element of any result needs another name."""

KNOWN_ANSWERS = {
    "elementwise operations of torch": "f6e2c4d9caa6a53f",
    "elementary functions": "bbb4bee9bb1f9547",
    "reductions": "a2d9f2a45b6f74ce",
    "matrix products": "1fdaf2ef3e12fbca",
    "attention": "d00ab26a8eae5cc3",
}
"""The first 16 hexadecimal digits of the SHA-256 of each group of results."""


def check_known_answers() -> None:
    """Raise `BitgolfError` if a group of results, computed in the current context, differs from its known answer."""
    for name, digest in computed_answers().items():
        if digest != KNOWN_ANSWERS[name]:
            cause = f"this machine computes other {name} than {NAME} demands ({digest}, not {KNOWN_ANSWERS[name]})"
            raise BitgolfError(cause, where="portable arithmetic", hint="--native computes with torch")


def computed_answers() -> dict[str, str]:
    """The digest of each group of results, as the current context computes it."""
    groups: tuple[Callable[[], list[Tensor]], ...] = _torch_operations, _elementary, _reductions, _products, _attention
    return {name: _digest(group()) for name, group in zip(KNOWN_ANSWERS, groups, strict=True)}


def _digest(results: list[Tensor]) -> str:
    return hashlib.sha256(b"".join(x.contiguous().numpy().tobytes() for x in results)).hexdigest()[:16]


def _numbers(*shape: int, seed: int = 1) -> Tensor:
    """Numbers in [-8, 8), multiples of 2^-12, from an integer recurrence."""
    count = torch.Size(shape).numel()
    indices = torch.arange(seed * 1000, seed * 1000 + count)
    return ((indices * indices * 40_503 + indices * 977) % 65_537 - 32_768).float().reshape(shape) / 4096


def _torch_operations() -> list[Tensor]:
    x, y = _numbers(333), _numbers(333, seed=2) + 16.5
    tiny = x * 2.0**-130 * 2.0**-10  # denormal numbers
    return [
        x * y + x,
        x / y,
        x / 3.0,
        (x * -0.0).relu(),
        y.reciprocal(),
        x - y * 0.1,
        tiny,
        tiny * 0.3 + tiny,
        x.double() / 7.0,
    ]


def _elementary() -> list[Tensor]:
    x, angles = _numbers(515), _numbers(515, seed=3).double() * 12_345.678
    positive = x.abs() + 2.0**-13
    functions = x.exp(), x.tanh(), x.sigmoid(), F.silu(x), positive.log(), positive**0.7, 1024.0**x, (x * 10).exp()
    return [
        *functions,
        x.cos(),
        x.sin(),
        angles.cos(),
        angles.sin(),
        (x * 2.0**-20).tanh(),
        positive.rsqrt(),
        positive.sqrt(),
    ]


def _reductions() -> list[Tensor]:
    x = _numbers(5, 77)
    norms = F.rms_norm(x, (77,)), torch.linalg.vector_norm(x, dim=-1)
    return [x.sum(-1), x.mean(0), *norms, x.softmax(-1), x.log_softmax(-1), x.cumsum(1)]


def _products() -> list[Tensor]:
    x, weight = _numbers(9, 75), _numbers(70, 75, seed=2)
    return [F.linear(x, weight), x @ weight.T, torch.bmm(x[None], weight.T[None]), F.linear(x, weight, weight[:, 0])]


def _attention() -> list[Tensor]:
    q, k, v = _numbers(2, 4, 11, 20), _numbers(2, 2, 11, 20, seed=2), _numbers(2, 2, 11, 20, seed=3)
    mask = (torch.arange(11)[:, None] - torch.arange(11)).abs() < 5
    return [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True, scale=0.3),
    ]
