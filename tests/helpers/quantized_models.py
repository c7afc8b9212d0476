"""Quantized toy models for the checks of `doctor`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.model.lm import LM
from bitgolf.model.parameters import parameter_roles
from bitgolf.quantize.codecs.codec import Codec, Float
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.diagnose.checks import diagnose
from bitgolf.quantize.diagnose.quantized_model import QuantizedModel
from bitgolf.quantize.encoding import codecs_by_path, decode_model, encode_model, tensor_reports
from bitgolf.quantize.stats import StatsByPath
from helpers.toy import VOCAB

SMALL = part(Rule, where="scale", use=part(Float, dtype="float16"))
UP = "blocks.0.mlp.up.weight"


def text(number: int, rows: int = 24) -> Tensor:
    """(rows, 4, 32) random tokens, of which small ones are frequent."""
    generator = torch.Generator().manual_seed(number)
    return (torch.rand(rows, 4, 32, generator=generator) ** 3 * VOCAB).long()


def quantized_model(
    model: LM,
    *rules: Spec[Rule],
    stored: StatsByPath | None = None,
    seen: tuple[StatsByPath, StatsByPath] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> QuantizedModel:
    """The model, quantized by these rules; scales are stored in float16."""
    own = dict(weights or {path: p.detach() for path, p in model.named_parameters()})
    rules, roles = (SMALL, *rules), parameter_roles(model)
    codes = encode_model(own, roles, rules, stored)
    decoded = decode_model(codes, {path: tuple(w.shape) for path, w in own.items()}, roles, rules)
    rows = tensor_reports(own, codes, roles, rules)
    return QuantizedModel(model, rules, roles, codecs_by_path(roles, rules), own, codes, decoded, rows, stored, seen)


def rule_for_all(codec: Spec[Codec]) -> Spec[Rule]:
    return part(Rule, where="*", use=codec)


def findings_by_rule(p: QuantizedModel) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for finding in diagnose(p):
        found.setdefault(finding.rule, []).append(finding)
    return found


SMALL_TRELLIS = part(TrellisCodec, bits=4.0, states=8)
