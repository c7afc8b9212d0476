"""How many bytes a model will pack to, before it is trained.

Each stream's codec and coder run on a sample of random Gaussian rows with the stream's own row length, and the bytes per
element found there are scaled to all of it. What differs from that in a trained model (heavier tails, matrices that are
smaller than others, short runs) is the forecast's error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import torch

from bitgolf.pack.streams import Coding, Layout, pack_codes
from bitgolf.quantize.codec import Shape
from bitgolf.quantize.codes import Roles, Rules, encode_all, layout, walks

SAMPLE = 1 << 18  # weights of each role
SPREAD = 0.3  # standard deviation, as Muon leaves it without decay; it matters only to codecs with a fixed step
DECAYED = 0.0067  # this / decay with it: so in the files of #265 to #1285, whose steps were 1/31 in all rows


def spread(decay: float) -> float:
    """The standard deviation of matrices that were trained to the end with this weight decay."""
    return min(SPREAD, DECAYED / decay) if decay > 0 else SPREAD


def forecast(
    shapes: Mapping[str, Shape],
    roles: Roles,
    rules: Rules,
    coder: Coding,
    groups: Mapping[str, str] | None = None,
    *,
    spread: float = SPREAD,
) -> dict[str, int]:
    """Section -> bytes, rounded to whole bytes. `shapes`, `roles`: path -> shape and role, as in the model.

    groups: path -> what is coded together, as in `pack_codes`; None: by role.  spread: the standard deviation of matrices.
    """
    generator = torch.Generator().manual_seed(0)
    sampled = {}
    for role in dict.fromkeys(roles.values()):
        paths = [p for p in shapes if roles[p] == role]
        total = sum(math.prod(shapes[p]) for p in paths)
        share = min(1.0, SAMPLE / total)
        for p in paths:
            first = max(1, round(shapes[p][0] * share)) if len(shapes[p]) > 1 else None
            shape = shapes[p] if first is None else (first, *shapes[p][1:])
            sampled[p] = (spread if role == "matrix" else SPREAD) * torch.randn(shape, generator=generator)
    kinds, found = {p: roles[p] for p in sampled}, {p: tuple(w.shape) for p, w in sampled.items()}
    groups = groups or roles
    sections = pack_codes(encode_all(sampled, kinds, rules), groups, coder, walks(found, kinds, rules))
    whole, taken = (_elements(layout(s, roles, rules), groups) for s in (shapes, found))
    scale = {kind: whole[kind] / taken[kind] for kind in taken if taken[kind]}
    return {s.name: round(len(s.data) * scale.get(_kind(s.name), 1)) for s in sections}


def _elements(layout: Layout, groups: Mapping[str, str]) -> Counter[str]:
    """`group.array` -> elements: not every array grows with the rows, which alone are sampled."""
    count = Counter[str]()
    for path, arrays in layout.items():
        for name, (_, shape) in arrays.items():
            count[f"{groups[path]}.{name}"] += math.prod(shape)
    return count


def _kind(section: str) -> str:
    """A section's name without the type that some have at the end."""
    return ".".join(section.split(".")[:2])
