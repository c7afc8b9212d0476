"""Fixtures of the kernel tests. Triton kernels run on a CUDA device if there is one, else in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from bitgolf.training.kernels.parity import RecordedCall
from helpers.toy import VOCAB


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def triton_device() -> torch.device:
    """The device on which Triton kernels run. Skips the test if Triton is not installed (it has Linux wheels only)."""
    triton = pytest.importorskip("triton", reason="needs Triton: pip install -e '.[dev]' brings it on Linux")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if tuple(int(number) for number in triton.__version__.split(".")[:2]) < (3, 7):
        _convert_indices()
    return torch.device("cpu")


@pytest.fixture
def rows() -> tuple[Tensor, Tensor]:
    """Token ids (2, 16) with a document start in each row, and their targets (2, 16)."""
    ids = torch.randint(2, VOCAB, (2, 17), generator=torch.Generator().manual_seed(0))
    ids[:, 5] = 1
    return ids[:, :-1], ids[:, 1:]


@pytest.fixture
def call() -> RecordedCall:
    """A recorded call of a part with a tensor (1, 5, 32)."""
    return RecordedCall((torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0)),), ())


def _convert_indices() -> None:
    """Patch the interpreter of Triton before 3.7 for NumPy 2.4.

    It calls `int()` on an array of shape (1,) to make an index, which NumPy 2.4 rejects.
    """
    from triton.runtime import interpreter

    others = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        others(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched
