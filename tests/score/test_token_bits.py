"""The bits of a target are exact to float64, eager and compiled."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitgolf.score.execution.compiled_function import CompiledFunction
from bitgolf.score.token_bits import COMPILED_CHUNK, EAGER_CHUNK, in_chunks, reference_bits, token_bits
from helpers.examples import examples

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # raised by imports of inductor


def exact(logits: Tensor, targets: Tensor) -> np.ndarray:
    """The bits in numpy's long double, with 64 bits of mantissa."""
    z = logits.double().numpy().astype(np.longdouble)
    z -= z.max(1, keepdims=True)
    chosen = np.take_along_axis(z, targets.numpy()[:, None], 1)[:, 0]
    return (np.log(np.exp(z).sum(1)) - chosen) / np.log(np.longdouble(2))


def drawn(n: int, vocab: int, scale: float, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, vocab, generator=generator)
    return logits, torch.randint(vocab, (n,), generator=generator)


def bound(vocab: int) -> float:
    """The error bound from the docstring of `token_bits`, in bits."""
    return (vocab + 4) * 2.0**-53 / math.log(2)


@pytest.fixture(scope="module")
def fused() -> CompiledFunction:
    return CompiledFunction(reference_bits, CPU)


@pytest.mark.parametrize(("vocab", "scale"), [(8192, 3.0), (8192, 30.0), (1024, 0.01), (300, 1000.0)])
def test_both_forms_are_within_the_bound(fused: CompiledFunction, vocab: int, scale: float) -> None:
    """The bound is relative if the bits are large, up to the range of the logits."""
    logits, targets = drawn(96, vocab, scale, 0)
    wanted = exact(logits, targets)
    for found in (token_bits(logits, targets), in_chunks(fused, logits, targets, 32)):
        assert found.dtype is torch.float64
        assert np.all(np.abs(found.numpy() - wanted) <= bound(vocab) + 4e-16 * np.abs(wanted))


def test_the_sum_of_a_sharp_model_is_right_to_one_part_in_a_billion(fused: CompiledFunction) -> None:
    """Relative errors are largest if almost every target is certain: here 0.01 bits per target on average."""
    logits, targets = drawn(512, 8192, 1.0, 1)
    logits[torch.arange(512), targets] = 17.0
    wanted = exact(logits, targets).sum()
    assert wanted / 512 < 0.01
    for found in (token_bits(logits, targets), in_chunks(fused, logits, targets, 128)):
        assert abs(float(found.sum()) / wanted - 1) < 1e-9


@given(n=st.integers(1, 70), size=st.integers(1, 20), seed=st.integers(0, 99))
@settings(max_examples=examples(200), deadline=None)
def test_pieces_of_one_size_cover_every_target_once(n: int, size: int, seed: int) -> None:
    logits, targets = drawn(max(n, size), 11, 2.0, seed)
    sizes = list[int]()

    def bits(z: Tensor, y: Tensor) -> Tensor:
        sizes.append(len(y))
        return reference_bits(z, y)

    assert torch.equal(in_chunks(bits, logits, targets, size), reference_bits(logits, targets))
    assert set(sizes) == {size} and len(sizes) == -(-max(n, size) // size)


def test_float64_logits_are_taken_as_they_are() -> None:
    logits, targets = drawn(8, 64, 2.0, 2)
    fine = logits.double() + 1e-12 * torch.arange(64)
    assert not torch.equal(token_bits(fine, targets), token_bits(logits, targets))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("n", [5, EAGER_CHUNK, 3 * EAGER_CHUNK + 7, COMPILED_CHUNK + 1])
def test_a_gpu_has_the_bits_of_the_cpu(n: int) -> None:
    logits, targets = drawn(n, 8192, 5.0, 3)
    found = token_bits(logits.cuda(), targets.cuda())
    assert found.is_cuda and np.all(np.abs(found.cpu().numpy() - exact(logits, targets)) <= 2 * bound(8192))
