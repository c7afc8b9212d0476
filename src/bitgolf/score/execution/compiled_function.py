"""Compiled graphs for scoring, one for each input shape, and the time that their compilation took."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch._functorch import config as autograd_config

from bitgolf.runtime.compiler import compile_graph, graph_count

RECOMPILE_LIMIT = 256  # graphs of one function: number of shapes times number of models scored in this process


class CompiledFunction:
    """A function of tensors that is compiled once for each combination of input shapes.

    compile_seconds: total time of the calls that compiled. Callers pad rows, lengths and numbers of targets, so that
    there are few shapes.
    """

    def __init__(self, function: Callable[..., Tensor], device: torch.device) -> None:
        self._run = compile_graph(function, device)
        self.compile_seconds = 0.0

    def __call__(self, *tensors: Tensor) -> Tensor:
        started, before = time.perf_counter(), graph_count()
        with (
            torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT),  # the default is 8, over all models
            autograd_config.patch(force_non_lazy_backward_lowering=True),  # so that it counts as compilation time
        ):
            result = self._run(*tensors)
        if graph_count() > before:
            self.compile_seconds += time.perf_counter() - started
        return result
