"""The mode: which operators are left to torch, replaced or refused, and that nothing of it remains afterwards."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError
from bitgolf.model.decoding.incremental import IncrementalDecoder
from bitgolf.model.lm import LM
from bitgolf.portable import known_answers
from bitgolf.portable.mode import portable_arithmetic
from bitgolf.recipes import get_recipe
from bitgolf.recipes.quick import quick
from helpers import portable_fixture
from helpers.toy import VOCAB, built, toy_model

X = torch.linspace(-3, 3, 24).reshape(4, 6)

REFUSED: dict[str, Callable[[], object]] = {
    "aten::erf": lambda: X.erf(),
    "aten::addcmul": lambda: torch.addcmul(X, X, X),
    "aten::lerp": lambda: torch.lerp(X, X, 0.3),
    "aten::max": lambda: X.max(0),
    "aten::index_put": lambda: X.clone().index_put_((torch.zeros(3, dtype=torch.int64),), X[:3], accumulate=True),
    "aten::prod": lambda: X.prod(),
    "aten::var": lambda: X.var(1),
    "aten::logsumexp|aten::exp_|aten::sum": lambda: X.logsumexp(1),
    "aten::convolution": lambda: F.conv1d(X[:, None], X[:1, None, :2]),
    "aten::div": lambda: torch.div(X, 0.3, rounding_mode="floor"),
    "float64": lambda: X.double() @ X.double().T,
    "float16": lambda: X.half().tanh(),
    "arange": lambda: torch.arange(0, 1, 0.1),
    "rms_norm": lambda: F.rms_norm(X, (4, 6)),
    "dropout": lambda: F.scaled_dot_product_attention(X[None], X[None], X[None], dropout_p=0.5),
    "radians": lambda: (X * 1e9).sin(),
    "order 2": lambda: torch.linalg.vector_norm(X, 3, dim=1),
    "addmm": lambda: torch.addmm(X[:, :4], X, X.T, beta=0.5),
    "exp of": lambda: torch.arange(5).exp(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_operator_without_a_portable_form_is_refused_by_name(name: str) -> None:
    with portable_arithmetic(), pytest.raises(BitgolfError) as refused:
        REFUSED[name]()
    assert any(part in str(refused.value) for part in name.replace("exp of", "aten::exp").split("|"))


LIKE_TORCH: dict[str, Callable[[Tensor], Tensor]] = {
    "factors": lambda x: torch.add(x, x, alpha=0.3) + torch.sub(x, x, alpha=3) + torch.rsub(x, x, alpha=2),
    "in place": lambda x: x.clone().add_(x, alpha=0.3),
    "reductions": lambda x: torch.stack([x.sum(), x.mean(), x.sum((0, 1)), x.mean(-1, keepdim=True).sum()]),
    "powers": lambda x: torch.stack([x**2, x**3, x.abs() ** 0.5, (x.abs() + 1) ** -0.5, 2.0**x, (x.abs() + 1) ** 1.7, x**-1.0]),
    "elementary": lambda x: torch.stack([x.exp(), x.tanh(), x.sigmoid(), F.silu(x), x.sin(), x.cos(), (x.abs() + 1).log(), x.abs().rsqrt()]),
    "softmax": lambda x: x.softmax(0) + x.log_softmax(1).T.reshape(4, 6),
    "products": lambda x: x @ x.T @ F.linear(x, x[:3]) @ torch.addmm(x[:3, :3], x[:3], x[:3].T),
    "batches": lambda x: torch.einsum("bij,bkj->bik", x.reshape(2, 2, 6), x.reshape(2, 2, 6)),
    "cumulative": lambda x: x.cumsum(0) + x.cumsum(-1) + torch.arange(24).reshape(4, 6).cumsum(1),
    "attention": lambda x: F.scaled_dot_product_attention(x[None, None], x[None, None], x[None, None], is_causal=True),
    "limits": lambda x: x.relu() + x.clamp(-1, 2) + x.clamp_min(0.5) + x.clamp_max(-1.0) + torch.maximum(x, -x) + torch.minimum(x, x * 2),
    "norms": lambda x: F.normalize(x, dim=-1) + F.rms_norm(x, (6,), x[0], 0.1),
    "integers": lambda x: (torch.arange(6).sum() + torch.arange(6) // 4).float(),
}  # fmt: skip


@pytest.mark.parametrize("name", LIKE_TORCH)
def test_results_are_torchs_up_to_rounding(name: str) -> None:
    expected = LIKE_TORCH[name](X)
    with portable_arithmetic():
        found = LIKE_TORCH[name](X)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=2e-6)


def test_exact_operations_are_rounded_as_numpy_rounds_them() -> None:
    """Also in vectors, for denormal numbers, and for a division by a number."""
    chance = np.random.default_rng(0)
    bits = chance.integers(0, 2**32, (2, 4099), np.uint64).astype(np.uint32)
    a, b = (np.where(np.isfinite(x), x, np.float32(1)) for x in bits.view(np.float32))
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    with portable_arithmetic(), np.errstate(all="ignore"):
        pairs = [(x + y, a + b), (x - y, a - b), (x * y, a * b), (x / y, a / b), (x / 3.0, a / np.float32(3.0)),
                 (x.abs().sqrt(), np.sqrt(np.abs(a))), (x.reciprocal(), np.float32(1) / a), (x.double().float(), a),
                 (x**2, a * a), (F.leaky_relu(x, 0.3), np.where(a > 0, a, a * np.float32(0.3)))]  # fmt: skip
    for i, (found, expected) in enumerate(pairs):
        assert np.array_equal(found.numpy(), expected, equal_nan=True), i


def test_nothing_remains_after_the_context() -> None:
    native = X.exp() @ X.T
    with portable_arithmetic():
        inside = torch.is_grad_enabled()
    assert not inside and torch.is_grad_enabled() and torch.equal(X.exp() @ X.T, native)


def test_another_result_is_found_before_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(known_answers.KNOWN_ANSWERS, "attention", "0" * 16)
    with pytest.raises(BitgolfError, match="computes other attention than portable-1 demands"), portable_arithmetic():
        pass


def test_denormal_numbers_that_are_flushed_are_found() -> None:
    assert torch.set_flush_denormal(True)
    try:
        with pytest.raises(BitgolfError, match="elementwise operations of torch"), portable_arithmetic():
            pass
    finally:
        torch.set_flush_denormal(False)


def test_a_parameter_that_changes_is_packed_again() -> None:
    model = torch.nn.Linear(6, 3, bias=False)
    with portable_arithmetic():
        before = model(X)
        model.weight.mul_(2.0)
        assert torch.equal(model(X), 2 * before)


# ---- models ---------------------------------------------------------------------------------------------------------


def decoded(model: LM, tokens: Tensor, *, prefilled: int) -> Tensor:
    """Logits (B, V) after the tokens (B, T), of which the first are read at once and the others one by one."""
    decoder = IncrementalDecoder(model, len(tokens), 64, 32)
    decoder.prefill(dict(enumerate(tokens[:, :prefilled])))
    for column in tokens[:, prefilled:].T:
        decoder.step(column)
    return decoder.logits


def test_logits_do_not_depend_on_rows_or_on_how_a_text_is_read() -> None:
    model, chance = built(toy_model()), torch.Generator().manual_seed(0)
    tokens = torch.randint(2, VOCAB, (64, 30), generator=chance)
    tokens[:, 0] = model.bos
    with portable_arithmetic():
        together = decoded(model, tokens, prefilled=30)
        for prefilled in (1, 17):
            assert torch.equal(decoded(model, tokens, prefilled=prefilled), together)
        for rows in ([0], [5, 40], list(range(7, 24))):
            assert torch.equal(decoded(model, tokens[rows], prefilled=9), together[rows])
    torch.testing.assert_close(together, decoded(model, tokens, prefilled=30), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    ["quickstart", "pr1855", "pr641"]
    + [pytest.param(name, marks=pytest.mark.exhaustive) for name in ("pr640", "pr1090", "bitgolf16", "long_rows")],
)
def test_published_recipes_have_only_portable_operators(name: str) -> None:
    """These recipes together have every operator that the 40 recipes of the package dispatch."""
    spec: Spec[LM] = quick(get_recipe(name))().model
    model = spec(BuildContext(vocab=64)).eval()
    tokens = torch.randint(2, 64, (2, 12), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = model.bos
    native = decoded(model, tokens, prefilled=5)
    with portable_arithmetic():
        found = decoded(model, tokens, prefilled=5)
    torch.testing.assert_close(found, native, rtol=1e-4, atol=1e-4)


# ---- other processors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "features", "threads"),
    [
        ("avx2", "-avx512f,-avx512vl,-avx512dq", 4),
        pytest.param("default", "-avx,-avx2,-fma,-avx512f", 2, marks=pytest.mark.exhaustive),
    ],
)
def test_other_instructions_and_threads_give_the_same_file_and_logits(
    capability: str, features: str, threads: int
) -> None:
    """torch, MKL and numba are restricted to the instructions of older processors. Entering the context checks the
    known answers as well.
    """
    if platform.machine() != "x86_64":
        pytest.skip("needs an x86-64 processor")
    environment = os.environ | {
        "ATEN_CPU_CAPABILITY": capability,
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2" if capability == "default" else "AVX2",
        "NUMBA_CPU_NAME": "x86-64" if capability == "default" else "haswell",
        "NUMBA_CPU_FEATURES": features,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    words = [sys.executable, "-m", portable_fixture.__name__, str(threads)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [capability.upper()]


def test_this_machine_gives_the_fixture() -> None:
    portable_fixture.check()


def test_the_fixture_does_not_depend_on_the_number_of_rows() -> None:
    """The tables are those of each document alone; only the order in which they are coded differs."""
    codec = portable_fixture.fixture_codec()
    assert len({len(portable_fixture.coded(codec, rows)) for rows in (1, 4)}) == 1
