# pyright: reportUnnecessaryTypeIgnoreComment=true
"""What a type checker knows of `bitgolf`. A line that it must refuse is marked; `make types` fails if it accepts one."""

from __future__ import annotations

from typing import assert_type

import torch

import bitgolf
import bitgolf.training.loop
from bitgolf.model.mlp import SwiGLU
from bitgolf.recipes.recipe import Recipe


def accepted(run: bitgolf.RunFolder, model: bitgolf.Model) -> None:
    assert_type(bitgolf.train("quickstart", text="corpus", seconds=60), bitgolf.RunFolder)
    assert_type(bitgolf.sweep("quickstart", set={"Muon.lr": [0.01]}, text="corpus", workers=2), bitgolf.SweepOutcome)
    assert_type(bitgolf.recipe("quickstart"), bitgolf.Spec[Recipe])
    assert_type(bitgolf.part(bitgolf.parts.SwiGLU, hidden=256), bitgolf.Spec[SwiGLU])
    assert_type(run.log[0].loss, float)
    assert_type(model.ledger[-1].bytes, int)
    assert_type(model.logits([1, 2]), torch.Tensor)
    assert_type(model.compress(b""), bytes)


def refused(model: bitgolf.Model) -> None:
    bitgolf.trian("quickstart")  # pyright: ignore[reportAttributeAccessIssue]
    bitgolf.train("quickstart", second=60)  # pyright: ignore[reportCallIssue]
    bitgolf.sweep("quickstart", worker=2)  # pyright: ignore[reportCallIssue]
    bitgolf.parts.SwigGLU  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018
    bitgolf.part(bitgolf.parts.SwiGLU, hiden=256)  # pyright: ignore[reportCallIssue]
    model.compress("text")  # pyright: ignore[reportArgumentType]


def test_the_names_that_a_type_checker_is_given_exist() -> None:
    assert bitgolf.train.__module__ == "bitgolf.api.runs" and bitgolf.training.loop.__name__ == "bitgolf.training.loop"
