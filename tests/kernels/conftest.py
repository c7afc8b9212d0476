"""Triton's kernels run on the CUDA device where there is one, else in Triton's interpreter on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def triton_device() -> torch.device:
    """Where kernels run. Skips where Triton is missing (it has Linux wheels only), or its interpreter is broken."""
    triton = pytest.importorskip("triton", reason="needs Triton: pip install -e '.[dev]' brings it on Linux")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if _release(triton.__version__) < (3, 7) and _release(np.__version__) >= (2, 4):
        pytest.skip("the interpreter of Triton before 3.7 needs numpy before 2.4 (arrays of one element as integers)")
    return torch.device("cpu")


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".")[:2])
