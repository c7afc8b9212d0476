"""Compiled graphs for scoring: one for each shape, and the time it took to make them."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch._functorch import config as autograd_config

from bitgolf.runtime.compiler import compile_graph

RECOMPILE_LIMIT = 256  # graphs of one function: shapes, times the models that were scored in this process


class CompiledFunction:
    """A function of tensors, compiled anew for each shape of them. `compile_seconds`: spent on calls that compiled.

    The callers keep the shapes few: they pad rows, lengths and numbers of targets.
    """

    def __init__(self, function: Callable[..., Tensor], device: torch.device) -> None:
        self._run = compile_graph(function, device)
        self.compile_seconds = 0.0

    def __call__(self, *tensors: Tensor) -> Tensor:
        started, before = time.perf_counter(), _graph_count()
        with (
            torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT),  # 8 otherwise, for all models together
            autograd_config.patch(force_non_lazy_backward_lowering=True),  # now, and not on the clock
        ):
            result = self._run(*tensors)
        if _graph_count() > before:
            self.compile_seconds += time.perf_counter() - started
        return result


def _graph_count() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]
