"""The result of `doctor` as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitgolf.commands.tables import format_number, table

if TYPE_CHECKING:
    from bitgolf.commands.doctor import DoctorResult

COSTS = ("predicted bpb", "measured bpb")
"""Headings of what the quantization of a tensor or group costs."""


def doctor_table(result: DoctorResult, rows: int = 20) -> str:
    """The result of `doctor`: the costliest tensors, groups of tensors quantized alone, the gap, and the findings."""
    groups = [
        (g.name, format_number(g.tensors), format_number(g.predicted_gap_bpb, "+.5f"), format_number(g.measured_gap_bpb, "+.5f"),
         format_number(g.standard_error_bpb, "+.5f"))
        for g in result.tensor_groups
    ]  # fmt: skip
    tensors = [
        (t.path, t.role, t.codec, format_number(t.elements), format_number(t.bits_per_weight, ".2f"), format_number(t.max_error, ".2g"),
         format_number(t.rms_error, ".2g"), format_number(t.predicted_gap_bpb, "+.5f"), format_number(t.measured_gap_bpb, "+.5f"))
        for t in result.tensors[:rows]
    ]  # fmt: skip
    columns = ("tensor", "role", "codec", "elements", "bits/ element", "max error", "rms error", *COSTS)
    findings = [f"{f.severity}: {f.rule}: {f.where}: {f.message}\n  hint: {f.hint}" for f in result.findings]
    return "\n\n".join(
        [
            table(f"{len(tensors)} of {len(result.tensors)} tensors by cost", columns, tensors, text_columns=3),
            table("Quantized alone", ("group", "tensors", *COSTS, "standard error bpb"), groups),
            _gap(result),
            "\n".join(findings) or "no findings",
        ]
    )


def _gap(result: DoctorResult) -> str:
    share = (
        "" if result.explained_share is None else f" ({result.explained_share:.0%} of the gap; the rest is interaction)"
    )
    return (
        f"averaged weights: {result.averaged_bpb:.4f} bpb on {result.tokens:,} tokens; gap of quantization:"
        f" {result.gap_bpb:+.5f} bpb (standard error {result.gap_standard_error_bpb:.5f}, predicted"
        f" {result.predicted_gap_bpb:+.5f}); sum of the groups quantized alone: {result.summed_bpb:+.5f} bpb{share}"
    )
