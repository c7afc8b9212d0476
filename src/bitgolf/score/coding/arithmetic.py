"""The arithmetic in which encoder and decoder compute probabilities: portable, or that of torch on one machine.

Native arithmetic has the same bits only with the same torch on the same kind of processor. Portable arithmetic
(package `portable`) has them everywhere; the coder's tables are then integers.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgolf.errors import UsageError
from bitgolf.runtime.threads import single_threaded
from bitgolf.score.methods import ScoringMethod

Tables = NDArray[np.float32]
"""Probabilities of n tokens, (n, V), as the range coder takes them."""


class Arithmetic(Protocol):
    """How probabilities are computed."""

    name: str
    code: int  # its number in the header of a file

    def activate(self) -> AbstractContextManager[None]:
        """The context in which the model and `tables` compute."""
        ...

    def tables(self, logs: Tensor) -> Tables:
        """The coder's tables for log probabilities (n, V)."""
        ...


class NativeArithmetic:
    """torch's operators on one thread, so that the order of every sum is fixed on this machine."""

    name, code = "native", 0

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Run torch on one thread. Small products are not slower."""
        with single_threaded():
            yield

    def tables(self, logs: Tensor) -> Tables:
        """exp(logs)."""
        return logs.exp().numpy()


class PortableArithmetic:
    """The package `portable`: the same bits on every processor, for any number of threads."""

    name, code = "portable-1", 1

    def activate(self) -> AbstractContextManager[None]:
        """The context of portable arithmetic. Raises `BitgolfError` if this machine does not compute it."""
        from bitgolf.portable.mode import portable_arithmetic  # imports numba, which takes a second

        return portable_arithmetic()

    def tables(self, logs: Tensor) -> Tables:
        """exp(logs) as multiples of 2^-24 that add up to 1, see `frequencies.dyadic_probabilities`."""
        from bitgolf.portable.frequencies import dyadic_probabilities

        return dyadic_probabilities(logs.exp().numpy())


ARITHMETICS: dict[int, Arithmetic] = {a.code: a for a in (NativeArithmetic(), PortableArithmetic())}
"""Arithmetics by their number in the header of a file."""


def choose_arithmetic(method: ScoringMethod, portable: bool | None) -> Arithmetic:
    """Portable or native arithmetic; None for portable unless the method has no portable form.

    Raises `UsageError` if portable arithmetic is asked for with a method that has none.
    """
    if portable and method.native_only:
        cause = f"method {method.name!r} {method.native_only}"
        raise UsageError(cause, where="--portable", hint="use --native, or a method that does not adapt")
    return ARITHMETICS[int(not method.native_only if portable is None else portable)]


def machine_fingerprint() -> str:
    """What native results depend on: version of torch, processor, and the vector instructions that torch uses."""
    return f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
