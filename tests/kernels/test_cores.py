"""Fast attention cores equal `SDPACore`, forward and backward, for all masks that they support."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch._functorch.config as functorch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec, part
from bitgolf.errors import Unsupported
from bitgolf.model.attention.cores import varlen
from bitgolf.model.attention.cores.flex_attention import FlexAttentionCore
from bitgolf.model.attention.cores.sdpa import DocumentMask, SDPACore, SegmentMask, SlidingWindowMask
from bitgolf.model.attention.cores.sdpa_backend import SDPABackendCore
from bitgolf.model.attention.cores.segment_capacity import (
    SegmentCapacity,
    SegmentCapacityManager,
    required_capacity,
    round_up_capacity,
    segment_starts,
)
from bitgolf.model.attention.cores.varlen import VarlenCore
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import AttentionMask
from helpers.segments import cu_seqlens_reference

AT = BuildContext(vocab=50, dim=64, heads=4, kv_heads=2)
BOS, LENGTH = 1, 24
MASKS: dict[str, tuple[Spec[AttentionMask], ...]] = {
    "window": (part(SlidingWindowMask, left=3),),
    "documents": (part(DocumentMask),),
    "segments": (part(SegmentMask, max_length=5),),
    "window and segments": (part(SlidingWindowMask, left=3), part(SegmentMask, max_length=9)),
    "documents and segments": (part(DocumentMask), part(SegmentMask, max_length=5)),
    "two windows": (part(SlidingWindowMask, left=9), part(SlidingWindowMask, left=4)),
}


@pytest.fixture(params=MASKS, ids=lambda name: name)
def plain(request: pytest.FixtureRequest) -> SDPACore:
    return SDPACore(AT, masks=MASKS[request.param])


def example(
    device: str = "cpu", dtype: torch.dtype = torch.float32, length: int = LENGTH, width: int = 16
) -> tuple[Tensor, list[Tensor]]:
    """Token ids (2, T): in the first row documents start at 7 and 8; the second row begins inside a document."""
    torch.manual_seed(0)
    ids = torch.randint(2, 50, (2, length))
    ids[0, 0] = ids[0, 7] = ids[0, 8] = ids[1, 15] = BOS
    shapes = [(2, length, heads, width) for heads in (4, 2, 2)]
    return ids.to(device), [torch.randn(s).to(device, dtype).requires_grad_() for s in shapes]


def answers(core: Callable[..., Tensor], ids: Tensor, qkv: list[Tensor]) -> list[Tensor]:
    y = core(*qkv, ForwardContext(ids, BOS))
    return [y, *torch.autograd.grad(y, qkv, torch.ones_like(y).cumsum(1) / y.shape[1])]


def agree(core: nn.Module, plain: SDPACore, ids: Tensor, qkv: list[Tensor], tolerance: float) -> bool:
    fast, exact = answers(core, ids, qkv), answers(plain, ids, [x.detach().float().requires_grad_() for x in qkv])
    return all((a.float() - b).norm() <= tolerance * b.norm() for a, b in zip(fast, exact, strict=True))


# ---- FlexAttention ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(
    "ignore:.*Function'> should not be instantiated:DeprecationWarning"
)  # raised by torch in Dynamo
@pytest.mark.parametrize("name", ["documents", "window and segments"])
@torch.no_grad()
def test_flex_is_sdpa_in_one_full_graph(name: str) -> None:
    """Forward only, since FlexAttention has no backward on CPUs. Other tests check the `mask_mod` of each mask."""
    ids, leaves = example()
    plain = SDPACore(AT, masks=MASKS[name])
    core, qkv = FlexAttentionCore(plain), [x.detach() for x in leaves]
    torch._dynamo.reset()

    def run(ids: Tensor, qkv: list[Tensor]) -> Tensor:
        return core(*qkv, ForwardContext(ids, BOS))

    compiled = torch.compile(run, fullgraph=True, backend="eager")
    assert (compiled(ids, qkv) - plain(*qkv, ForwardContext(ids, BOS))).abs().max() < 1e-5


def test_every_rule_is_its_mask(plain: SDPACore) -> None:
    ids, _ = example()
    context, place = ForwardContext(ids, BOS), torch.arange(LENGTH)
    for mask in FlexAttentionCore(plain).parts:
        rows = torch.arange(2)[:, None, None]
        rule = mask.mask_mod(context)
        assert rule, "Flex takes only masks that have one"
        seen = rule(rows, place[:, None], place[None, :])
        assert torch.equal(seen.expand(2, -1, -1), mask(context).expand(2, 1, -1, -1)[:, 0])


class Odd(AttentionMask):
    """A mask without `mask_mod` that allows every second key."""

    def forward(self, context: ForwardContext) -> Tensor:
        return (context.positions[:, None] - context.key_positions[None, :]) % 2 == 0


def test_masks_that_a_core_cannot_take_are_refused_with_the_reason() -> None:
    odd = SDPACore(AT, masks=(part(Odd),))
    with pytest.raises(Unsupported, match="Odd has no mask_mod"):
        FlexAttentionCore(odd)
    with pytest.raises(Unsupported, match="Odd does not cut rows"):
        VarlenCore(odd)
    with pytest.raises(Unsupported, match="takes no masks"):
        SDPABackendCore(odd, SDPBackend.FLASH_ATTENTION)


# ---- variable length ------------------------------------------------------------------------------------------------


def one_by_one(
    q: Tensor, k: Tensor, v: Tensor, ends: Tensor, ends_k: Tensor, longest: int, longest_k: int, **rest: Any
) -> Tensor:
    """Reference for `varlen_attn`, one segment at a time: causal, with `window_size[0]` keys to the left (-1: all)."""
    assert ends.dtype is torch.int32
    assert torch.equal(ends, ends_k)
    assert rest["window_size"][1] == 0
    left = rest["window_size"][0]
    pieces = []
    for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        assert b - a <= longest == longest_k
        back = torch.arange(b - a)[:, None] - torch.arange(b - a)[None, :]
        mask = (back >= 0) & ((back <= left) | torch.tensor(left < 0))
        segment = [x[a:b].transpose(0, 1) for x in (q, k, v)]
        y = F.scaled_dot_product_attention(segment[0], segment[1], segment[2], attn_mask=mask, enable_gqa=True)
        pieces.append(y.transpose(0, 1))
    return torch.cat(pieces)


@torch.library.custom_op("tests::one_by_one", mutates_args=())
def one_by_one_in_graphs(
    q: Tensor, k: Tensor, v: Tensor, ends: Tensor, ends_k: Tensor, longest: int, longest_k: int, window_size: list[int]
) -> Tensor:
    return one_by_one(q, k, v, ends, ends_k, longest, longest_k, window_size=window_size)


@one_by_one_in_graphs.register_fake
def _(q: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(q)


def roomy(plain: SDPACore) -> VarlenCore:
    """A variable-length core with capacity for 16 segments of the longest possible length."""
    core = VarlenCore(plain)
    core.set_capacity(SegmentCapacity(16, min([LENGTH, *(cap for cap in core.segment_lengths if cap)])))
    return core


def test_variable_length_is_sdpa(plain: SDPACore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boundaries, windows, shapes and padding are right. The kernel itself, which does not run on CPUs, is replaced."""
    monkeypatch.setattr(varlen, "load_varlen_attention", lambda: one_by_one)
    assert agree(roomy(plain), plain, *example(), 1e-5)
    free = SDPACore(AT)
    assert agree(VarlenCore(free), free, *example(), 1e-5)


def test_variable_length_holds_the_full_graph(plain: SDPACore) -> None:
    """The traced graph is whole and contains one call of the kernel. It is not run, since the kernel needs a GPU."""
    ids, qkv = example()
    core, calls = roomy(plain), []

    def traced(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        calls.extend(node for node in graph.graph.nodes if "_varlen_attn" in str(node.target))
        return lambda *inputs: (torch.zeros(len(qkv[0].flatten(0, 1)), 4, 16).unflatten(0, ids.shape),)

    torch._dynamo.reset()
    y = torch.compile(lambda *qkv: core(*qkv, ForwardContext(ids, BOS)), fullgraph=True, backend=traced)(*qkv)
    assert y.shape == qkv[0].shape
    assert len(calls) == 1


@pytest.mark.parametrize("cap", [0, 5])
def test_boundaries_in_the_graph_are_those_of_the_text(cap: int) -> None:
    ids, _ = example()
    core = roomy(SDPACore(AT, masks=(part(SegmentMask, max_length=cap),)))
    ends = torch.compile(lambda ids: core.cu_seqlens(ForwardContext(ids, BOS)), fullgraph=True, backend="eager")(ids)
    expected = cu_seqlens_reference(ids, BOS, cap, bucket=1)
    assert ends.shape == (17,)
    assert torch.equal(ends[: len(expected)], expected)
    assert (ends[len(expected) :] == ids.numel()).all()


@pytest.mark.parametrize(
    "room", [SegmentCapacity(4, LENGTH), SegmentCapacity(16, 15)], ids=["segments", "tokens in one"]
)
def test_more_than_there_is_room_for_is_an_error(room: SegmentCapacity) -> None:
    """The example has five segments, the longest with 16 tokens, which exceed either capacity."""
    ids, qkv = example()
    core = VarlenCore(SDPACore(AT, masks=(part(DocumentMask),)))
    core.set_capacity(room)
    with pytest.raises(RuntimeError, match=r"train\.kernels"):
        core(*qkv, ForwardContext(ids, BOS))


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # from an import of the partitioner
def test_a_graph_within_a_budget_of_activations_takes_the_boundaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core compiles under an activation memory budget, whose partitioner rejects assertions in PyTorch 2.11."""
    monkeypatch.setattr(varlen, "load_varlen_attention", lambda: one_by_one_in_graphs)
    ids, qkv = example()
    core = roomy(SDPACore(AT, masks=(part(SegmentMask, max_length=5),)))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mixed = core(q.detach(), k.detach(), v.detach(), ForwardContext(ids, BOS))
        x = q
        for _ in range(4):
            x = (x @ q.flatten(0, 2)[:16]).sin() + mixed
        return x.square().sum()

    torch._dynamo.reset()
    run = torch.compile(attend, fullgraph=True, dynamic=False, backend="aot_eager_decomp_partition")
    with functorch.patch(activation_memory_budget=0.25):
        (found,) = torch.autograd.grad(run(*qkv), qkv[:1])
    torch.testing.assert_close(found, torch.autograd.grad(attend(*qkv), qkv[:1])[0])


# ---- segment capacity -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caps", [[0], [5], [0, 5]])
def test_room_on_the_host_is_what_the_device_counts(caps: list[int]) -> None:
    ids, _ = example()
    starts = torch.stack([segment_starts((ids == BOS).cumsum(1), cap) for cap in caps]).any(0)
    ends = [*starts.flatten().nonzero().flatten().tolist(), ids.numel()]
    room = required_capacity(ids.numpy(), BOS, caps)
    assert room == (len(ends) - 1, max(b - a for a, b in pairwise(ends)))


def test_several_caps_are_bounded_from_above() -> None:
    ids, _ = example()
    starts = torch.stack([segment_starts((ids == BOS).cumsum(1), cap) for cap in (3, 7)]).any(0)
    assert int(starts.sum()) <= required_capacity(ids, BOS, [3, 7]).max_segments <= 2 * int(starts.sum())


def test_room_comes_in_multiples_and_stops_at_the_row_or_the_cap() -> None:
    assert round_up_capacity(1, 1, [0], 4096) == (64, 256)
    assert round_up_capacity(64.5, 257, [0], 4096) == (128, 512)
    assert round_up_capacity(300, 3400, [0], 3500) == (320, 3500)
    assert round_up_capacity(10, 1, [0, 2048], 98304) == (64, 2048)


def test_room_at_the_start_is_a_quarter_more_than_the_first_batches_need() -> None:
    core = VarlenCore(SDPACore(AT, masks=(part(DocumentMask),)))
    ids = torch.full((3, 1, 4096), 2).numpy()
    ids[1, 0, ::32] = BOS  # 128 documents of 32 tokens; the other rows are one document of 4,096
    ids[2, 0, ::1024] = BOS
    slots = SegmentCapacityManager(core, BOS, lambda line: None)
    slots.reserve([ids[1], ids[2]])
    assert core.capacity == (192, 1280)  # 1.25 * 128 = 160, 1.25 * 1024
    slots.reserve(list(ids))
    assert core.capacity == (192, 4096)


def test_a_batch_of_more_segments_takes_the_next_bucket_in_the_compiled_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run continues, and each increase is logged once. A batch that fits changes nothing and recompiles nothing."""
    monkeypatch.setattr(varlen, "load_varlen_attention", lambda: one_by_one_in_graphs)
    plain = SDPACore(BuildContext(vocab=50, dim=4, heads=1, kv_heads=1), masks=(part(DocumentMask),))
    core, said = VarlenCore(plain), list[str]()
    slots = SegmentCapacityManager(core, BOS, said.append)
    few = torch.full((1, 1024), 2)
    many = few.clone()
    many[0, ::12] = BOS  # 86 documents
    q, k, v = (torch.randn(1, 1024, 1, 4) for _ in range(3))
    torch._dynamo.reset()

    def attend(q: Tensor, k: Tensor, v: Tensor, ids: Tensor) -> Tensor:
        return core(q, k, v, ForwardContext(ids, BOS))

    run = torch.compile(attend, fullgraph=True, dynamic=False, backend="eager")
    for ids, expected in (
        (few, SegmentCapacity(64, 1024)),
        (many, SegmentCapacity(128, 1024)),
        (few, SegmentCapacity(128, 1024)),
    ):
        slots.ensure(ids.numpy())
        assert core.capacity == expected
        assert torch.allclose(run(q, k, v, ids), plain(q, k, v, ForwardContext(ids, BOS)), atol=1e-5)
    assert said == [
        "attention: capacity raised to 64 segments of at most 1,024 tokens per batch",
        "attention: capacity raised to 128 segments of at most 1,024 tokens per batch",
    ]


def test_room_is_made_for_as_many_rows_as_are_read_at_once_and_at_least_doubles() -> None:
    core = VarlenCore(SDPACore(AT, masks=(part(SegmentMask, max_length=8),)))
    ids = torch.full((4, 520), 2).numpy()  # 65 segments of 8 tokens per row
    slots = SegmentCapacityManager(core, BOS, lambda line: None)
    slots.reserve([ids[:1, :8]])
    assert core.capacity == (64, 8)
    for _ in range(2):
        slots.ensure(ids, rows_at_once=1)
        assert core.capacity == (128, 8)
    slots.ensure(ids, rows_at_once=2)
    assert core.capacity == (256, 8)  # 130 are needed


# ---- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_variable_length_is_sdpa_on_the_device(plain: SDPACore) -> None:
    ids, qkv = example("cuda", torch.bfloat16, 256, 64)
    core = VarlenCore(plain)
    SegmentCapacityManager(core, BOS, print).ensure(ids.cpu())
    assert agree(core, plain, ids, qkv, 2e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_compiled_flex_is_sdpa_on_the_device(plain: SDPACore) -> None:
    ids, qkv = example("cuda", torch.bfloat16, 256, 64)
    core = FlexAttentionCore(plain)

    def run(q: Tensor, k: Tensor, v: Tensor, ids: Tensor) -> Tensor:
        return core(q, k, v, ForwardContext(ids, BOS))

    compiled = torch.compile(run, fullgraph=True, dynamic=False)
    fast = answers(lambda q, k, v, context: compiled(q, k, v, context.ids), ids, qkv)
    exact = answers(plain, ids, [x.detach().float().requires_grad_() for x in qkv])
    assert all((a.float() - b).norm() <= 2e-2 * b.norm() for a, b in zip(fast, exact, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION], ids=str)
def test_named_backends_are_sdpa_on_the_device(backend: SDPBackend) -> None:
    ids, qkv = example("cuda", torch.bfloat16, 256, 64)
    plain = SDPACore(AT)
    core = SDPABackendCore(plain, backend)
    try:
        core(*qkv, ForwardContext(ids, BOS))
    except RuntimeError as error:
        pytest.skip(f"{backend} is not able here: {error}")
    assert agree(core, plain, ids, qkv, 2e-2)
