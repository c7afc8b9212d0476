"""Filling a cap: never over it, 0.05 % under it at most, and what is read back is what was encoded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bitgolf.cli import resolve
from bitgolf.edits import but
from bitgolf.errors import BitgolfError, DamagedError, RecipeError
from bitgolf.files import read_json, write_json
from bitgolf.grids.clip import HessianSdClip, MaxClip, SdClip
from bitgolf.pack.artifact import Artifact, artifact_bytes, read_artifact, write_artifact
from bitgolf.pack.coders import Coder, Range
from bitgolf.pack.streams import Code, pack_codes, unpack_codes
from bitgolf.pipeline import start
from bitgolf.quantize.allocate import EqualRate
from bitgolf.quantize.codec import Float, IntRows
from bitgolf.quantize.codes import encode_all, layout, walks
from bitgolf.quantize.forecast import forecast
from bitgolf.quantize.gptq import Gptq
from bitgolf.quantize.lqer import LowRankRepair
from bitgolf.quantize.trellis import Trellis
from bitgolf.rules import Rule
from bitgolf.score.fit import MOST, WINDOW, Fit, Line, finer, fit, reach, slope
from bitgolf.spec import Spec, part

GRAIN = 48
"""Bytes: a file of a few kilobytes has streams whose lengths are multiples of four, and a setting moves several of them."""


class Tiny:
    """A model of a few small matrices and a vector, and rules for it, at random."""

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        shapes = [tuple(int(n) for n in draw.integers(24, 128, 2)) for _ in range(draw.integers(1, 4))]
        generator = torch.Generator().manual_seed(seed)
        self.weights = {f"m{i}": torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}
        self.weights = {p: w * 2.0 ** float(draw.normal(-2, 1)) for p, w in self.weights.items()}
        for w in self.weights.values():
            w *= torch.exp(0.5 * torch.randn(len(w), 1, generator=generator))
        self.weights["v"] = torch.randn(int(draw.integers(3, 40)), generator=generator)
        self.roles = {path: "scale" if path == "v" else "matrix" for path in self.weights}
        self.rules = (part(Rule, where="scale", use=part(Float, dtype="float16")), *self._codecs(draw))
        self.coder: Spec[Coder] = part(Range, levels=bool(draw.integers(2)))

    def _codecs(self, draw: np.random.Generator) -> list[Spec[Rule]]:
        allocate = part(EqualRate)
        trellis = part(Trellis, bits=float(draw.uniform(2, 5)), states=int(draw.choice([1, 4, 8])), allocate=allocate)
        clip = part(SdClip, k=float(draw.uniform(6, 16)))
        rows = part(IntRows, bits=int(draw.integers(5, 8)), clip=clip, solve=part(Gptq) if draw.integers(2) else None)
        both = len(self.weights) > 2 and bool(draw.integers(2))
        first = [part(Rule, where="@m0", use=rows)] if both else []
        return [*first, part(Rule, where="*", use=trellis if both or draw.integers(2) else rows)]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {path: tuple(w.shape) for path, w in self.weights.items()}

    def line(self, cap: int) -> Line:
        sizes = {path: w.numel() for path, w in self.weights.items()}
        expected = sum(forecast(self.shapes, self.roles, self.rules, self.coder).values())
        return Line(slope(self.rules, self.roles, sizes), WINDOW * cap, expected + len(self.file([])))

    def sections(self, octaves: float) -> tuple[dict[str, Code], bytes]:
        rules = finer(self.rules, octaves)
        codes = encode_all(self.weights, self.roles, rules)
        return codes, self.file(pack_codes(codes, self.roles, self.coder, walks(self.shapes, self.roles, rules)))

    def file(self, sections: list[Any]) -> bytes:
        return artifact_bytes(recipe={}, meta={}, sections=sections)
