"""A calculation of the time of a training step on N GPUs: products, attention, memory, optimizer, collectives.

Each term is a count divided by a rate. Rates are those of data sheets times an efficiency; `CONSTANTS` says of each
where it is from: a data sheet, a measurement of a part, or a fit to the time of a whole step.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Gpu(NamedTuple):
    """Rates of an H100 SXM, and efficiencies with which they are used."""

    peak_flops: float = 989.4e12
    memory_bytes: float = 3.35e12
    multiprocessors: int = 132
    product_efficiency: float = 0.61
    memory_efficiency: float = 0.80
    launch_seconds: float = 4e-6


class Network(NamedTuple):
    """Links of a host of 8 GPUs and between hosts. Bytes per second are for each GPU, in one direction."""

    gpus_per_host: int = 8
    nvlink_bytes: float = 370e9
    host_bytes: float = 45e9
    nvlink_hop: float = 2.5e-6
    host_hop: float = 4.0e-6
    base_seconds: float = 14.0e-6


class Code(NamedTuple):
    """What an implementation adds to the counts of a recipe.

    stream_passes: bytes that kernels other than products and attention move, for each token and visit of a layer, in
    units of the residual stream in bfloat16. attention_flops: rate of the attention kernel, forward and backward, if
    every query attends to the most keys that its mask allows. fixed_seconds: what does not depend on the batch.
    """

    name: str
    stream_passes: float
    attention_flops: float
    fixed_seconds: float
    launches_per_visit: float = 30.0


H100, CLUSTER = Gpu(), Network()
SCRIPT_FA2 = Code("script of #1855, FlashAttention 2", 70.2, 223e12, 4.6e-3)
SCRIPT_FA3 = SCRIPT_FA2._replace(name="script of #1855, FlashAttention 3", attention_flops=328e12)
BITGOLF_FIRST = Code("Bitgolf of 2026-11-22, FlashAttention 2", 97.3, 238e12, 4.6e-3 + 98.6e-3 + 23.8e-3)
"""Its generated code moved 166.6 GB per row. Two reductions that ran on two multiprocessors took 98.6 ms, and five kernels
with register spills 23.8 ms more than their bytes (profile of that code)."""
BITGOLF_FA3 = SCRIPT_FA3._replace(name="Bitgolf, FlashAttention 3", stream_passes=48.8)
CODES = {"script": SCRIPT_FA3, "bitgolf": BITGOLF_FA3}

CONSTANTS = (
    ("peak, bfloat16", "989.4 TFLOP/s", "data sheet, H100 SXM, dense"),
    ("memory", "3.35 TB/s", "data sheet, H100 SXM"),
    ("NVLink", "450 → 370 GB/s", "data sheet → NCCL's protocol overhead (NVIDIA/nccl-tests #212)"),
    ("between hosts", "50 → 45 GB/s per GPU", "data sheet, 400 Gb/s InfiniBand → assumed"),
    ("a hop of a ring", "2.5 and 4.0 µs, 14 µs once", "assumed, the order of NCCL's tuning constants (LL128)"),
    ("efficiency of products", "61 %", "fitted: 52 ms of products in #1855's script on one H100"),
    ("efficiency of memory", "80 %", "fitted: 45 ms for 120.2 GB there"),
    ("attention, FlashAttention 2", "223 TFLOP/s", "fitted: 55 ms there"),
    ("attention, FlashAttention 3", "328 TFLOP/s", "fitted: 141 ms per looped step on 8 H100"),
    ("per step", "4.6 ms", "fitted: 6 ms there without the calculated optimizer"),
    ("launch of a kernel", "4 µs", "assumed; matters below about 2 ms of work only"),
)
"""Name, value and origin of each constant."""


class Product(NamedTuple):
    """Matrix products (tokens, columns) x (columns, rows), `visits` times in a forward pass."""

    rows: int
    columns: int
    visits: float


class Stack(NamedTuple):
    """Matrices of one shape that the optimizer shards over GPUs; bytes of a gradient and of a weight in collectives."""

    matrices: int
    rows: int
    columns: int
    gradient_bytes: int
    weight_bytes: int = 4


class Phase(NamedTuple):
    """A part of a run. share: of its time. visits: of layers in a forward pass.

    attention: sum over visits of the width of queries times the keys that each attends to at most.
    """

    share: float
    products: tuple[Product, ...]
    visits: float
    attention: float


class Workload(NamedTuple):
    """Counts of a recipe. batch_tokens: tokens of a step on all GPUs; replicated: parameters outside of stacks."""

    name: str
    dim: int
    phases: tuple[Phase, ...]
    stacks: tuple[Stack, ...]
    replicated: int
    batch_tokens: int
    seconds: float


class StepTime(NamedTuple):
    """Terms of a step in seconds, and their sum. launches: a lower bound of the first three, not part of the sum."""

    products: float
    attention: float
    memory: float
    launches: float
    optimizer: float
    collectives: float
    fixed: float

    @property
    def compute(self) -> float:
        """Forward and backward pass."""
        return max(self.products + self.attention + self.memory, self.launches)

    @property
    def total(self) -> float:
        """Collectives are not overlapped with the passes, since a compiled graph returns all gradients at its end."""
        return self.compute + self.optimizer + self.collectives + self.fixed


def step_time(work: Workload, phase: Phase, gpus: int, code: Code, gpu: Gpu = H100, net: Network = CLUSTER) -> StepTime:
    """The time of a step in a phase, with `work.batch_tokens` divided among `gpus`."""
    tokens = work.batch_tokens / gpus
    moved = tokens * phase.visits * work.dim * 2 * code.stream_passes
    return StepTime(
        products=sum(product_time(p, tokens, gpu) for p in phase.products),
        attention=tokens * phase.attention * 4 * 3.5 / code.attention_flops,
        memory=moved / (gpu.memory_bytes * gpu.memory_efficiency),
        launches=phase.visits * code.launches_per_visit * gpu.launch_seconds,
        optimizer=optimizer_time(work, gpus, gpu),
        collectives=collectives_time(work, gpus, net),
        fixed=code.fixed_seconds,
    )


# ---- one GPU -------------------------------------------------------------------------------------------------------

TILE = (128, 256)
"""Rows and columns of the output that one multiprocessor computes at a time."""
PASSES = 3
"""Products per weight matrix: forward, gradient of the inputs, gradient of the weights."""


def product_time(product: Product, tokens: float, gpu: Gpu = H100) -> float:
    """Forward and backward pass of a product: whole waves of tiles, except in the gradient of the weights.

    That sums over the tokens, which are divided among multiprocessors.
    """
    flops = 2 * tokens * product.rows * product.columns * product.visits
    rate = gpu.peak_flops * gpu.product_efficiency
    slow = 1 / utilization(tokens, product.rows, 1, gpu) + 1 / utilization(tokens, product.columns, 1, gpu)
    return flops / rate * (slow + PASSES - 2)


def utilization(rows: float, columns: float, count: int, gpu: Gpu = H100) -> float:
    """Share of the multiprocessors that work on `count` outputs of this shape, with at least a tile each."""
    tiles = count * math.ceil(rows / TILE[0]) * math.ceil(columns / TILE[1])
    useful = count * rows * columns / (TILE[0] * TILE[1])
    return min(1.0, useful / (math.ceil(tiles / gpu.multiprocessors) * gpu.multiprocessors))


def optimizer_time(work: Workload, gpus: int, gpu: Gpu = H100) -> float:
    """Muon of this GPU's share of each stack (five Newton-Schulz iterations), and Adam of the other parameters.

    A matrix of m x n, m <= n: 5 (4 m^2 n + 2 m^3) operations. Adam reads weight, gradient and two moments, and writes
    three of them, in float32.
    """
    seconds = 28 * work.replicated / (gpu.memory_bytes * gpu.memory_efficiency)
    for stack in work.stacks:
        own, m, n = math.ceil(stack.matrices / gpus), *sorted((stack.rows, stack.columns))
        rate = gpu.peak_flops * gpu.product_efficiency * utilization(m, n, own, gpu)
        seconds += own * 5 * (4 * m * m * n + 2 * m**3) / rate
    return seconds


# ---- many GPUs -----------------------------------------------------------------------------------------------------


def collectives_time(work: Workload, gpus: int, net: Network = CLUSTER) -> float:
    """Reduce-scatter of gradients and all-gather of weights for each stack, and one all-reduce of other gradients.

    A stack is padded to a multiple of the number of GPUs.
    """
    seconds = 2 * one_way_time(4 * work.replicated, gpus, net)
    for stack in work.stacks:
        elements = math.ceil(stack.matrices / gpus) * gpus * stack.rows * stack.columns
        seconds += one_way_time(elements * stack.gradient_bytes, gpus, net)
        seconds += one_way_time(elements * stack.weight_bytes, gpus, net)
    return seconds


def one_way_time(size: float, gpus: int, net: Network = CLUSTER) -> float:
    """A reduce-scatter or an all-gather of `size` bytes: rings within the hosts, then between them.

    Half of an all-reduce. The GPUs of a host send to other hosts side by side, each its share.
    """
    if gpus == 1 or not size:
        return 0.0
    local = min(gpus, net.gpus_per_host)
    hosts = math.ceil(gpus / net.gpus_per_host)
    inside = (local - 1) / local * size / net.nvlink_bytes + (local - 1) * net.nvlink_hop
    between = (hosts - 1) / hosts * size / local / net.host_bytes + (hosts - 1) * net.host_hop
    return net.base_seconds + inside + between


# ---- a run ---------------------------------------------------------------------------------------------------------


def run_steps(work: Workload, gpus: int, code: Code, gpu: Gpu = H100, net: Network = CLUSTER) -> float:
    """Steps in the seconds of a run."""
    return sum(phase.share * work.seconds / step_time(work, phase, gpus, code, gpu, net).total for phase in work.phases)


KAPLAN_TOKENS, KAPLAN_EXPONENT = 2.1e8, 4.8


def critical_batch(loss: float) -> float:
    """Tokens of a batch that needs twice the fewest tokens and twice the fewest steps, at a loss in nats per token.

    2.1e8 / loss^4.8 (Kaplan et al., 2020, for Adam); Muon and another tokenizer may change it by a factor of a few.
    """
    return KAPLAN_TOKENS / loss**KAPLAN_EXPONENT


def useful_tokens(steps: float, batch: float, critical: float) -> float:
    """Tokens in small batches that bring as much as `steps` steps of `batch` tokens (McCandlish et al., 2018)."""
    return steps * batch / (1 + batch / critical)
