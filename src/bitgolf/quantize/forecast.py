"""How many bytes a model will pack to, before it is trained.

Each stream's codec and coder run on a sample of random Gaussian rows with the stream's own row length, and the bytes per
element found there are scaled to all of it. What differs from that in a trained model (heavier tails, rows that shrank
to nothing under weight decay) is the forecast's error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from bitgolf.pack.streams import Coding, pack_codes
from bitgolf.quantize.codec import Shape
from bitgolf.quantize.codes import Roles, Rules, encode_all

SAMPLE = 1 << 18  # weights of each role
SPREAD = 0.3  # standard deviation, as Muon leaves it without decay; it matters only to codecs with a fixed step


def forecast(shapes: Mapping[str, Shape], roles: Roles, rules: Rules, coder: Coding) -> dict[str, int]:
    """Section -> bytes, rounded to whole bytes. `shapes`, `roles`: path -> shape and role, as in the model."""
    generator = torch.Generator().manual_seed(0)
    sampled, scale = {}, {}
    for role in dict.fromkeys(roles.values()):
        paths = [p for p in shapes if roles[p] == role]
        total = sum(math.prod(shapes[p]) for p in paths)
        share = min(1.0, SAMPLE / total)
        for p in paths:
            first = max(1, round(shapes[p][0] * share)) if len(shapes[p]) > 1 else None
            shape = shapes[p] if first is None else (first, *shapes[p][1:])
            sampled[p] = SPREAD * torch.randn(shape, generator=generator)
        scale[role] = total / sum(sampled[p].numel() for p in paths)
    kinds = {p: roles[p] for p in sampled}
    sections = pack_codes(encode_all(sampled, kinds, rules), kinds, coder)
    return {s.name: round(len(s.data) * scale[s.name.partition(".")[0]]) for s in sections}
