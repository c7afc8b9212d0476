"""FlashAttention's packages are called with the right arguments for each signature, and the results equal `SDPACore`.

The packages need a Hopper GPU. The tests use substitutes with the signatures of several releases.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec, part
from bitgolf.errors import Unsupported
from bitgolf.kernels.flash_attention import MODULES
from bitgolf.model.attention.cores.flash_attention import FlashAttentionCore
from bitgolf.model.attention.cores.sdpa import DocumentMask, SDPACore, SegmentMask, SlidingWindowMask
from bitgolf.model.attention.cores.segment_capacity import SegmentCapacityManager
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import AttentionMask
from bitgolf.training.kernels.parity import summarize_exception

AT = BuildContext(vocab=50, dim=64, heads=4, kv_heads=2)
BOS, LENGTH = 1, 24
MASKS: dict[str, tuple[Spec[AttentionMask], ...]] = {
    "none": (),
    "window": (part(SlidingWindowMask, left=3),),
    "documents": (part(DocumentMask),),
    "window and segments": (part(SlidingWindowMask, left=3), part(SegmentMask, max_length=9)),
}


# ---- reference attention with the outputs of the packages' functions --------------------------------------------------


def weights(q: Tensor, k: Tensor, ends: Tensor | None, longest: int | None, left: int | None, scale: float) -> Tensor:
    """Logits (..., H, N, N) of queries and keys (..., N, H, d); -inf outside segment, causal order and `left` keys."""
    tokens = q.shape[-3]
    place = torch.arange(tokens)
    segment = torch.zeros(tokens) if ends is None else torch.searchsorted(ends, place, right=True)
    if ends is not None:
        assert ends.dtype is torch.int32
        assert longest is not None and int(ends.diff().max()) <= longest
    back = place[:, None] - place[None, :]
    seen = (back >= 0) & (segment[:, None] == segment[None, :])
    if left is not None and left >= 0:
        seen &= back <= left
    scores = torch.einsum("...qhd,...khd->...hqk", q, repeated(k, q)) * scale
    return scores.masked_fill(~seen, -torch.inf)


def repeated(k: Tensor, q: Tensor) -> Tensor:
    return k.repeat_interleave(q.shape[-2] // k.shape[-2], -2)


def forward(q: Tensor, k: Tensor, v: Tensor, *form: Any) -> tuple[Tensor, Tensor]:
    scores = weights(q, k, *form)
    y = torch.einsum("...hqk,...khd->...qhd", scores.softmax(-1), repeated(v, q))
    return y, scores.logsumexp(-1)


def backward(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *form: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, computed from the output and the log-sum-exp of the forward pass."""
    p, scale = (weights(q, k, *form) - lse[..., None]).exp(), form[-1]
    dp = torch.einsum("...qhd,...khd->...hqk", g, repeated(v, q))
    ds = p * (dp - (g * out).sum(-1).movedim(-1, -2)[..., None]) * scale
    shape = (*k.shape[:-2], k.shape[-2], -1, k.shape[-1])
    dv = torch.einsum("...hqk,...qhd->...khd", p, g).reshape(shape).sum(-2)
    dk = torch.einsum("...hqk,...qhd->...khd", ds, q).reshape(shape).sum(-2)
    return torch.einsum("...hqk,...khd->...qhd", ds, repeated(k, q)), dk, dv


# ---- substitutes ----------------------------------------------------------------------------------------------------


def third() -> SimpleNamespace:
    """A release of FlashAttention 3 with separate arguments for both window sides, and gradients written in place."""

    def _flash_attn_forward(
        q: Tensor, k: Tensor, v: Tensor, k_new: Tensor | None = None, cu_seqlens_q: Tensor | None = None,
        cu_seqlens_k: Tensor | None = None, max_seqlen_q: int | None = None, max_seqlen_k: int | None = None,
        softmax_scale: float | None = None, causal: bool = False, window_size_left: int = -1,
        window_size_right: int = -1, softcap: float = 0.0,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        assert causal and window_size_right == 0 and cu_seqlens_k is cu_seqlens_q and max_seqlen_k == max_seqlen_q
        assert k_new is None and softmax_scale is not None
        return *forward(q, k, v, cu_seqlens_q, max_seqlen_q, window_size_left, softmax_scale), q.new_empty(0), q

    def _flash_attn_backward(
        dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, softmax_lse: Tensor,
        cu_seqlens_q: Tensor | None = None, cu_seqlens_k: Tensor | None = None, max_seqlen_q: int | None = None,
        max_seqlen_k: int | None = None, dq: Tensor | None = None, dk: Tensor | None = None, dv: Tensor | None = None,
        softmax_scale: float | None = None, is_causal: bool = False, window_size_left: int = -1,
        window_size_right: int = -1,
    ) -> Tensor:  # fmt: skip
        assert is_causal and window_size_right == 0 and softmax_scale is not None
        assert dq is not None and dk is not None and dv is not None
        form = (cu_seqlens_q, max_seqlen_q, window_size_left, softmax_scale)
        for given, value in zip((dq, dk, dv), backward(dout, q, k, v, out, softmax_lse, *form), strict=True):
            given.copy_(value)
        return softmax_lse

    return SimpleNamespace(_flash_attn_forward=_flash_attn_forward, _flash_attn_backward=_flash_attn_backward)


def earlier_third() -> SimpleNamespace:
    """An earlier release: most arguments have no default, the window is a pair, and the backward takes `causal`."""
    new = third()

    def _flash_attn_forward(
        q: Tensor, k: Tensor, v: Tensor, k_new: None, cu_seqlens_q: Tensor | None, cu_seqlens_k: Tensor | None,
        max_seqlen_q: int | None, max_seqlen_k: int | None, rotary_cos: None, softmax_scale: float | None,
        causal: bool, window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        form = cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal, *window_size
        return new._flash_attn_forward(q, k, v, None, *form)

    def _flash_attn_backward(
        dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, softmax_lse: Tensor, cu_seqlens_q: Tensor | None,
        cu_seqlens_k: Tensor | None, sequed_q: None, sequed_k: None, max_seqlen_q: int | None, max_seqlen_k: int | None,
        dq: Tensor, dk: Tensor, dv: Tensor, softmax_scale: float | None, causal: bool,
        window_size: tuple[int, int] = (-1, -1),
    ) -> Tensor:  # fmt: skip
        form = cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dq, dk, dv, softmax_scale, causal, *window_size
        return new._flash_attn_backward(dout, q, k, v, out, softmax_lse, *form)

    return SimpleNamespace(_flash_attn_forward=_flash_attn_forward, _flash_attn_backward=_flash_attn_backward)


def fourth(windows: bool = True) -> SimpleNamespace:
    """FlashAttention 4: None means no window, the log-sum-exp is optional, and gradients are returned."""

    def _flash_attn_fwd(
        q: Tensor, k: Tensor, v: Tensor, qv: Tensor | None = None, cu_seqlens_q: Tensor | None = None,
        cu_seqlens_k: Tensor | None = None, max_seqlen_q: int | None = None, max_seqlen_k: int | None = None,
        softmax_scale: float | None = None, causal: bool = False, window_size_left: int | None = None,
        window_size_right: int | None = None, return_lse: bool = False,
    ) -> tuple[Any, ...]:  # fmt: skip
        assert causal and return_lse and window_size_right == 0 and qv is None and softmax_scale is not None
        assert window_size_left is None or window_size_left >= 0
        return *forward(q, k, v, cu_seqlens_q, max_seqlen_q, window_size_left, softmax_scale), None, None

    def _flash_attn_bwd(
        q: Tensor, k: Tensor, v: Tensor, out: Tensor, dout: Tensor, lse: Tensor, softmax_scale: float | None = None,
        causal: bool = False, softcap: float = 0.0, window_size_left: int | None = None,
        window_size_right: int | None = None, cu_seqlens_q: Tensor | None = None, cu_seqlens_k: Tensor | None = None,
        max_seqlen_q: int | None = None,
    ) -> tuple[Any, ...]:  # fmt: skip
        assert causal and softmax_scale is not None
        form = (cu_seqlens_q, max_seqlen_q, window_size_left, softmax_scale)
        return *backward(dout, q, k, v, out, lse, *form), None

    def without_windows(
        q: Tensor, k: Tensor, v: Tensor, out: Tensor, dout: Tensor, lse: Tensor, softmax_scale: float | None = None,
        causal: bool = False, cu_seqlens_q: Tensor | None = None, cu_seqlens_k: Tensor | None = None,
        max_seqlen_q: int | None = None,
    ) -> tuple[Any, ...]:  # fmt: skip
        form = (softmax_scale, causal, 0.0, None, None, cu_seqlens_q, cu_seqlens_k, max_seqlen_q)
        return _flash_attn_bwd(q, k, v, out, dout, lse, *form)

    back = _flash_attn_bwd if windows else without_windows
    return SimpleNamespace(_flash_attn_fwd=_flash_attn_fwd, _flash_attn_bwd=back)


RELEASES: dict[str, tuple[int, Callable[[], SimpleNamespace]]] = {
    "3": (3, third),
    "3, earlier": (3, earlier_third),
    "4": (4, fourth),
}


@pytest.fixture(params=RELEASES)
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    number, release = RELEASES[request.param]
    monkeypatch.setitem(sys.modules, MODULES[number], release())
    return number


# ---- tests ----------------------------------------------------------------------------------------------------------


def example(device: str = "cpu", dtype: torch.dtype = torch.float32, width: int = 16) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(0)
    ids = torch.randint(2, 50, (2, LENGTH))
    ids[0, 0] = ids[0, 7] = ids[0, 8] = ids[1, 15] = BOS
    shapes = [(2, LENGTH, heads, width) for heads in (4, 2, 2)]
    return ids.to(device), [torch.randn(s).to(device, dtype).requires_grad_() for s in shapes]


def answers(core: Callable[..., Tensor], ids: Tensor, qkv: list[Tensor]) -> list[Tensor]:
    y = core(*qkv, ForwardContext(ids, BOS))
    return [y, *torch.autograd.grad(y, qkv, torch.ones_like(y).cumsum(1) / y.shape[1])]


def roomy(core: FlashAttentionCore, ids: Tensor) -> FlashAttentionCore:
    SegmentCapacityManager(core, BOS, lambda line: None).ensure(ids.cpu())
    return core


@pytest.mark.parametrize("masks", MASKS)
def test_forward_and_backward_are_those_of_sdpa(masks: str, version: int) -> None:
    plain, (ids, qkv) = SDPACore(AT, masks=MASKS[masks]), example()
    core = roomy(FlashAttentionCore(plain, version), ids)
    pairs = zip(answers(core, ids, qkv), answers(plain, ids, qkv), strict=True)
    assert all((a - b).norm() <= 1e-5 * b.norm() for a, b in pairs)


@pytest.mark.parametrize("masks", ["window", "window and segments"])
def test_compiled_in_one_graph_it_computes_the_same(masks: str, version: int) -> None:
    plain, (ids, qkv) = SDPACore(AT, masks=MASKS[masks]), example()
    core = roomy(FlashAttentionCore(plain, version), ids)
    torch._dynamo.reset()
    run = torch.compile(
        lambda q, k, v, ids: core(q, k, v, ForwardContext(ids, BOS)), fullgraph=True, backend="aot_eager"
    )
    fast = answers(lambda q, k, v, context: run(q, k, v, context.ids), ids, qkv)
    assert all((a - b).norm() <= 1e-5 * b.norm() for a, b in zip(fast, answers(plain, ids, qkv), strict=True))


def test_the_operator_keeps_the_rules_of_torch(version: int) -> None:
    _, qkv = example()
    ends = torch.tensor([0, 7, 24], dtype=torch.int32)
    torch.library.opcheck(torch.ops.bitgolf.flash.default, (*qkv, None, LENGTH, -1, version))
    torch.library.opcheck(
        torch.ops.bitgolf.flash.default, (*(x[0].detach().requires_grad_() for x in qkv), ends, 17, 3, version)
    )


def test_a_release_without_windows_is_refused_instead_of_ignoring_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MODULES[4], fourth(windows=False))
    ids, qkv = example()
    free, windowed = (SDPACore(AT, masks=MASKS[name]) for name in ("none", "window"))
    pairs = zip(answers(FlashAttentionCore(free, 4), ids, qkv), answers(free, ids, qkv), strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)
    with pytest.raises(TypeError, match="takes no argument window_size"):
        answers(FlashAttentionCore(windowed, 4), ids, qkv)


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MODULES[3], None)
    with pytest.raises(Unsupported, match="FlashAttention 3 cannot be imported") as refused:
        FlashAttentionCore(SDPACore(AT), 3)
    assert (
        summarize_exception(refused.value)
        == "ModuleNotFoundError: import of flash_attn_interface halted; None in sys.modules"
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("number", [3, 4])
def test_on_the_device_they_are_sdpa(masks: str, number: int) -> None:
    plain, (ids, qkv) = SDPACore(AT, masks=MASKS[masks]), example("cuda", torch.bfloat16, 64)
    try:
        core = roomy(FlashAttentionCore(plain, number), ids)
    except Unsupported as error:
        pytest.skip(f"needs FlashAttention {number}: {error}")
    fast, exact = answers(core, ids, qkv), answers(plain, ids, [x.detach().float().requires_grad_() for x in qkv])
    assert all((a.float() - b).norm() <= 2e-2 * b.norm() for a, b in zip(fast, exact, strict=True))
