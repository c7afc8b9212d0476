"""Triton's kernels run on the CUDA device where there is one, else in Triton's interpreter on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from bitgolf.train.kernels.parity import RecordedCall
from helpers.toy import VOCAB


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def triton_device() -> torch.device:
    """Where kernels run. Skips where Triton is missing (it has Linux wheels only)."""
    triton = pytest.importorskip("triton", reason="needs Triton: pip install -e '.[dev]' brings it on Linux")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if tuple(int(number) for number in triton.__version__.split(".")[:2]) < (3, 7):
        _convert_indices()
    return torch.device("cpu")


@pytest.fixture
def rows() -> tuple[Tensor, Tensor]:
    """Token ids and their targets, (2, 16) each, with a document start."""
    ids = torch.randint(2, VOCAB, (2, 17), generator=torch.Generator().manual_seed(0))
    ids[:, 5] = 1
    return ids[:, :-1], ids[:, 1:]


@pytest.fixture
def call() -> RecordedCall:
    """A recorded call of a part: one row of five tokens, 32 wide."""
    return RecordedCall((torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0)),), ())


def _convert_indices() -> None:
    """Mend the interpreter of Triton before 3.7: it makes an index with `int()` of an array that has one element and one
    axis, which NumPy 2.4 refuses. Later ones remove the axis first."""
    from triton.runtime import interpreter

    others = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        others(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched
