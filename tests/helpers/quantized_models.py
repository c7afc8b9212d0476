"""A toy model, quantized, with what the doctor looks at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.model.lm import LM
from bitgolf.model.parameters import roles
from bitgolf.quantize.codecs.codec import Codec, Float
from bitgolf.quantize.codecs.trellis import Trellis
from bitgolf.quantize.diagnose.checks import examine
from bitgolf.quantize.diagnose.quantized_model import Patient
from bitgolf.quantize.encoding import assign, decode_all, encode_all, report
from bitgolf.quantize.stats import Calibration
from helpers.toy import VOCAB

SMALL = part(Rule, where="scale", use=part(Float, dtype="float16"))
UP = "blocks.0.mlp.up.weight"


def text(number: int, rows: int = 24) -> Tensor:
    """Tokens that are not all alike: small numbers are common."""
    generator = torch.Generator().manual_seed(number)
    return (torch.rand(rows, 4, 32, generator=generator) ** 3 * VOCAB).long()


def patient(
    model: LM,
    *rules: Spec[Rule],
    stored: Calibration | None = None,
    seen: tuple[Calibration, Calibration] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> Patient:
    """The model, quantized by these rules for all but its scales."""
    own = dict(weights or {path: p.detach() for path, p in model.named_parameters()})
    rules, kinds = (SMALL, *rules), roles(model)
    codes = encode_all(own, kinds, rules, stored)
    decoded = decode_all(codes, {path: tuple(w.shape) for path, w in own.items()}, kinds, rules)
    rows = report(own, codes, kinds, rules)
    return Patient(model, rules, kinds, assign(kinds, rules), own, codes, decoded, rows, stored, seen)


def every(codec: Spec[Codec]) -> Spec[Rule]:
    return part(Rule, where="*", use=codec)


def alarms(p: Patient) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for alarm in examine(p):
        found.setdefault(alarm.rule, []).append(alarm)
    return found


SPENT = part(Trellis, bits=4.0, states=8)
