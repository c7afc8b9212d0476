"""Triton's kernels run on the CUDA device where there is one, else in Triton's interpreter on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

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
    """Where kernels run. Skips where Triton is missing (it has Linux wheels only)."""
    pytest.importorskip("triton", reason="needs Triton: pip install -e '.[dev]' brings it on Linux")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
