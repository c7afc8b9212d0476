"""Profile of the kernels of a training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from gpu_benchmarks.harness import on_cuda, synchronize

KERNELS = 30


def slowest_kernels(step: Callable[[], object]) -> dict[str, Any]:
    """The slowest kernels of one call (on a CPU: operators), with name, milliseconds and launches.

    kernels_ms and launches are the sums over all kernels.
    """
    cuda = on_cuda()
    kind = DeviceType.CUDA if cuda else DeviceType.CPU
    synchronize()
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as found:
        step()
        synchronize()
    rows = [
        {
            "name": event.key,
            "ms": round((event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e3, 3),
            "launches": event.count,
        }
        for event in found.key_averages()
        if event.device_type == kind
    ]
    rows.sort(key=lambda row: -row["ms"])
    return {
        "kernels_ms": round(sum(row["ms"] for row in rows), 2),
        "launches": sum(row["launches"] for row in rows),
        "kernels": rows[:KERNELS],
    }
