"""Tests of `runtime.compat`: calls are adapted to the signatures of different library releases."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bitgolf.runtime import compat
from bitgolf.runtime.compat import first_available, supported_kwargs, with_gqa


def attend_2_11(query: Tensor, *rest: Any, window_size: tuple[int, int] = (-1, -1)) -> tuple[str, Any]:
    return "2.11", window_size


def attend_2_13(query: Tensor, *rest: Any, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False) -> Any:
    return "2.13", window_size, enable_gqa


def test_grouped_heads_are_asked_for_where_that_can_be_said() -> None:
    q = torch.zeros(1)
    assert with_gqa(attend_2_11)(q, window_size=(5, 0)) == ("2.11", (5, 0))
    assert with_gqa(attend_2_13)(q, window_size=(5, 0)) == ("2.13", (5, 0), True)


def test_collectives_go_by_their_newest_name() -> None:
    old = SimpleNamespace(__name__="dist", reduce_scatter_tensor="old")
    new = SimpleNamespace(__name__="dist", reduce_scatter_tensor="old", reduce_scatter_single="new")
    names = ("reduce_scatter_single", "reduce_scatter_tensor")
    assert (first_available(old, *names), first_available(new, *names)) == ("old", "new")
    with pytest.raises(AttributeError, match="dist has none of all_gather_single"):
        first_available(old, "all_gather_single")


def test_arguments_are_given_by_name_and_requirements_are_filled() -> None:
    def older(q: Any, k_new: Any, window_size: Any, softcap: float = 0.0) -> None: ...

    def newer(q: Any, window_size_left: int = -1) -> None: ...

    offered = {"q": 1, "window_size": (5, 0), "window_size_left": 5}
    assert supported_kwargs(older, offered) == {"q": 1, "k_new": None, "window_size": (5, 0)}
    assert supported_kwargs(newer, offered) == {"q": 1, "window_size_left": 5}
    with pytest.raises(TypeError, match="newer takes no argument cu_seqlens or ends"):
        supported_kwargs(newer, offered, [("window_size", "window_size_left"), ("cu_seqlens", "ends")])


def test_a_custom_operator_shows_the_signature_of_its_function() -> None:
    @torch.library.custom_op("tests::signed", mutates_args=())
    def signed(x: Tensor, scale: float = 1.0) -> Tensor:
        return x * scale

    assert supported_kwargs(signed, {"x": 1, "scale": 2.0, "other": 3}) == {"x": 1, "scale": 2.0}


def test_this_release_has_all_that_is_asked_for() -> None:
    q = torch.zeros(4, 4, 8, device="meta")
    ends = torch.zeros(2, device="meta", dtype=torch.int32)
    assert compat.load_varlen_attention()(q, q[:, :2], q[:, :2], ends, ends, 4, 4, window_size=(-1, 0)).shape == q.shape
    assert callable(compat.reduce_scatter_tensor)
    assert callable(compat.all_gather_tensor)
