"""Tests of the inductor options: only options that the installed torch has, and only on CUDA devices."""

from __future__ import annotations

import pytest
import torch

from bitgolf.runtime import compiler

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def test_every_option_is_known_to_this_torch() -> None:
    assert compiler.inductor_options(CUDA) == compiler.CUDA_OPTIONS
    assert compiler.inductor_options(CUDA)["triton.mix_order_reduction"] is False
    assert compiler.inductor_options(CPU) == {}


def test_an_option_of_another_torch_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile rejects unknown options."""
    options = {**compiler.CUDA_OPTIONS, "triton.of_another_version": True}
    with pytest.raises(RuntimeError, match="of_another_version"):
        torch.compile(torch.sin, options=options)
    monkeypatch.setattr(compiler, "CUDA_OPTIONS", options)
    assert compiler.inductor_options(CUDA) == {name: options[name] for name in list(options)[:-1]}
