"""Where the runs of a sweep are executed: in this process, in several of this host, or on a Ray cluster."""

from __future__ import annotations

import os

from bitgolf.errors import UsageError
from bitgolf.pipeline.execute import ExecutionOptions
from bitgolf.runtime.device import select_device
from bitgolf.runtime.ordered_map import InProcess, LocalProcesses, OrderedMap
from bitgolf.runtime.ray_cluster import RayCluster


def run_workers(processes: int, cluster: str, execution: ExecutionOptions) -> OrderedMap:
    """What executes the runs of a sweep.

    processes: that execute runs at the same time on this host, each with GPUs of its own if runs use them. cluster:
    address of a Ray cluster, whose hosts must share the folder of the sweep; "" for this host. execution: of each run.
    Raises `UsageError` if there are too few GPUs, or no cluster.
    """
    uses_gpus = select_device(device_type=execution.device).torch_device.type == "cuda"
    if cluster:
        if processes > 1:
            hint = "leave one of the two out: a cluster runs as many at a time as it has room for"
            raise UsageError("--workers is for this host", where="--workers", hint=hint)
        return RayCluster(cluster, cores=execution.processes, gpus=execution.processes if uses_gpus else 0)
    if processes == 1:
        return InProcess()
    return LocalProcesses(processes, gpu_groups(processes, execution.processes) if uses_gpus else ())


def gpu_groups(workers: int, each: int) -> list[str]:
    """The GPUs of each worker, as `CUDA_VISIBLE_DEVICES` names them. each: GPUs of a run.

    Raises `UsageError` if this host, or what this process may see of it, has too few.
    """
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    if len(names) < workers * each:
        message = (
            f"{workers} runs at a time with {each} GPUs each need {workers * each} GPUs, but there are {len(names)}"
        )
        raise UsageError(message, where="--workers", hint=f"use --workers {max(1, len(names) // each)}")
    return [",".join(names[i * each : (i + 1) * each]) for i in range(workers)]
