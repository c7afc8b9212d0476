"""Results of commands as tables for a terminal."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from bitgolf.config.requirements import CODE_FOLDER

if TYPE_CHECKING:
    from bitgolf.commands.artifacts import LedgerResult, ScoreResult
    from bitgolf.commands.doctor import DoctorResult
    from bitgolf.commands.pack import PackResult
    from bitgolf.commands.show import RecipeSummary
    from bitgolf.commands.sweep import SweepResult
    from bitgolf.pipeline.result import HeldOutText, RunResult
    from bitgolf.score.result import CompressResult, MethodResult, ProofResult

Row = Sequence[str]


def compression_line(result: CompressResult) -> str:
    """Sizes and rates of a compressed file."""
    rates = f"{result.bpb_coded:.4f} bpb coded, {result.bpb_predicted:.4f} bpb predicted"
    return f"{result.bytes_in:,} -> {result.bytes_out:,} bytes, {rates}"


def proof_line(result: ProofResult) -> str:
    """Sizes of a proof, and how much of it was restored."""
    above = f"{result.overhead_percent:.3f} % above the claimed {result.claimed_bpb:.5f} bpb"
    restored = f"{len(result.sampled)} of {result.groups} groups restored by another process"
    return f"{result.bytes:,} -> {result.coded_bytes:,} bytes, {above}; {restored}"


def table(title: str, columns: Sequence[str], rows: Iterable[Row], *, text_columns: int = 1) -> str:
    """A table as text. The first `text_columns` columns are left-aligned, the others right-aligned. No cell is cut."""
    drawn = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for i, column in enumerate(columns):
        drawn.add_column(column, justify="left" if i < text_columns else "right", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=100_000, highlight=False).print(drawn)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def format_number(value: Any, spec: str = ",") -> str:
    """A number in the given format, "-" for None."""
    return "-" if value is None else format(value, spec)


def run_table(result: RunResult) -> str:
    """The result of `run`: parts, bits per byte, scores, bytes, seconds by stage, and commands to try next."""
    bpb = [(k, format_number(v, ".4f")) for k, v in result.bpb.items() if v is not None]
    if trip := result.roundtrip:
        bpb.append(
            (f"one document of {trip.bytes_in:,} bytes, compressed and restored", format_number(trip.bpb_coded, ".4f"))
        )
        others = trip.general_compressors_bpb.items()
        compared = f"held-out text, {trip.general_compressors_bytes:,} bytes"
        bpb += [(f"{compared}, {name}", format_number(v, ".4f")) for name, v in others]
    own = result.bytes
    sizes = [("model", own.model), ("tokenizer", own.tokenizer), ("total", own.total)]
    sizes += [("self_contained", own.self_contained), ("cap", own.cap)]
    used = [
        (row.part, format_number(row.tensors), format_number(row.parameters), format_number(row.calls))
        for row in result.part_usage
    ]
    seconds = [(k, format_number(v, ".1f")) for k, v in result.seconds.items()]
    return "\n\n".join(
        [
            table("Parts in use", ("part", "tensors", "parameters", "calls"), used),
            *filter(None, [result.quick_note]),
            *_scores(result, bpb),
            table(
                "Bytes (total excludes the tokenizer)", ("", "bytes"), [(name, format_number(n)) for name, n in sizes]
            ),
            table("Seconds", ("stage", "s"), seconds),
            _next_steps(result),
        ]
    )


def _scores(result: RunResult, bpb: Sequence[Row]) -> list[str]:
    """The tables of bits per byte, with the share of the held-out text that was scored; a line if there are no scores."""
    if not result.methods:
        return [f"{result.sample_note} `bitgolf run {result.run} --score-tokens all` scores the run."]
    tables = [
        table(f"Bits per byte ({_held_out(result.held_out)})", ("stage", "bpb"), bpb),
        methods_table(result.methods),
    ]
    return [result.sample_note, *tables] if result.sample_note else tables


def _held_out(text: HeldOutText) -> str:
    sidecar = "" if text.sidecar_bytes is None else f"; the byte sidecar counts {text.sidecar_bytes:,}"
    return f"held-out text, {text.bytes:,} bytes{sidecar}"


def _next_steps(result: RunResult) -> str:
    artifact = f"{result.run}/artifact.bg"
    code = "".join(f" --code {result.run}/{CODE_FOLDER}/{file}" for file in result.code)
    lines = [
        "Try next:",
        f"  bitgolf generate {artifact} --prompt 'def '{code}",
        f"  bitgolf compress {artifact} FILE FILE.bgz{code}",
        f"  bitgolf ledger {artifact}",
    ]
    if not (result.quick or code):
        lines.append(f"  bitgolf run {result.recipe} --text PATH          # on your own text")
    return "\n".join(lines)


def score_table(result: ScoreResult) -> str:
    """The result of `score`: a row for each method, the number of targets, bits added for an order, warnings."""
    facts = f"{result.targets:,} targets in {result.bytes:,} bytes of text, each scored once"
    orders = [
        f"{m.method}: documents ordered by length, {m.order_bits:,} bits ({m.order_bits / m.bytes:.5f} bpb)"
        " added for the order"
        for m in result.methods
        if m.order_bits
    ]
    warnings = [f"{m.method}: {warning}" for m in result.methods for warning in m.warnings]
    return "\n\n".join([methods_table(result.methods), "\n".join([facts, *orders, *warnings])])


def methods_table(methods: Sequence[MethodResult]) -> str:
    """A row for each method: bits per byte, gain over the same windows without adaptation, and speed."""
    rows = [
        (m.method, "cross-document" if m.cross_document else "isolated", m.order, format_number(m.bpb, ".4f"),
         format_number(m.bpb_without_adaptation, ".4f"), format_number(m.gain, "+.4f"), format_number(m.window), format_number(m.stride),
         format_number(m.targets_per_second, ",.0f"), format_number(m.targets_per_token_read, ".3f"), format_number(m.seconds, ".1f"))
        for m in methods
    ]  # fmt: skip
    columns = ("method", "documents", "order", "bpb", "without adaptation", "gain", "window", "stride")
    return table("Score", (*columns, "targets/s", "targets/token", "s"), rows, text_columns=3)


def ledger_table(result: LedgerResult) -> str:
    """The result of `ledger`: a row for each section of the artifact."""
    rows = [
        (e.name, format_number(e.bytes), format_number(e.elements), format_number(e.bits_per_element, ".3f"), e.coder)
        for e in result.entries
    ]
    total = ("total", format_number(result.total), "", "", "")
    drawn = table("Ledger", ("name", "bytes", "elements", "bits/element", "coder"), [*rows, total])
    return "\n".join([drawn, *(f"needs {needed}" for needed in result.requires)])


def pack_table(result: PackResult) -> str:
    """The result of `pack`: all encodings that were tried, and the changed settings."""
    probes = [
        (format_number(t.log2_step_scale, "+.5f"), format_number(t.predicted_bytes), format_number(t.bytes), format_number(t.bytes - result.cap, "+,"),
         format_number(t.predicted_bytes / t.bytes - 1, "+.2%"))
        for t in result.probes
    ]  # fmt: skip
    columns = ("log2 step scale", "predicted", "bytes", "relative to cap", "prediction error")
    changed = [(s.path, str(s.before), str(s.after)) for s in result.settings]
    counted = {"model": "without the tokenizer", "file": "the whole file"}[result.counted]
    under = f"{result.bytes_under_cap:,} under the cap ({result.bytes_under_cap / result.cap:.3%})"
    under += "; these are the finest steps: no larger file is possible" if result.finest else ""
    return "\n\n".join(
        [
            table("Probes", columns, probes, text_columns=0),
            table("Settings", ("path", "before", "after"), changed),
            f"{result.bytes:,} / {result.cap:,} bytes ({counted}), {under}",
            f"artifact: {result.artifact}, settings: {result.recipe}",
            f"Try next:\n  bitgolf score {result.artifact} --shards {result.run}/data",
        ]
    )


def sweep_table(result: SweepResult) -> str:
    """The result of `sweep`: a row for each combination of settings; columns without values are left out."""
    columns = {
        "bytes": [format_number(row.bytes) for row in result.rows],
        "predicted": [format_number(row.predicted_gap_bpb, "+.5f") for row in result.rows],
        "bpb": [format_number(row.bpb, ".5f") for row in result.rows],
        "gap": [format_number(row.gap_bpb, "+.5f") for row in result.rows],
    }
    known = {name: cells for name, cells in columns.items() if any(cell != "-" for cell in cells)}
    rows = [
        (*(row.settings[path] for path in result.paths), *cells)
        for row, *cells in zip(result.rows, *known.values(), strict=True)
    ]
    averaged = result.averaged_bpb
    unquantized = "" if averaged is None else f"\n\nunquantized (averaged weights): {averaged:.5f} bpb"
    return table("Sweep", (*result.paths, *known), rows, text_columns=len(result.paths)) + unquantized


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
    columns = ("tensor", "role", "codec", "elements", "bits/element", "max error", "rms error", "predicted", "measured")
    findings = [f"{f.severity}: {f.rule}: {f.where}: {f.message}\n  hint: {f.hint}" for f in result.findings]
    return "\n\n".join(
        [
            table(f"{len(tensors)} of {len(result.tensors)} tensors by cost", columns, tensors, text_columns=3),
            table("Quantized alone (bpb)", ("", "tensors", "predicted", "measured", "standard error"), groups),
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


def show_table(summary: RecipeSummary) -> str:
    """The result of `show`: counts and forecasts, all settings, published results, and cautions."""
    expected = summary.forecast
    facts = [
        ("hash", summary.hash),
        ("parameters", format_number(summary.params)),
        ("layers", str(summary.layers)),
        ("vocabulary", format_number(summary.vocab)),
        *((f"  {role}", format_number(n)) for role, n in summary.params_by_role.items()),
        ("forecast, packed bytes", f"{expected.bytes:,} / {expected.cap:,}"),
        ("forecast, training memory without activations", f"{expected.training_state_bytes:,} bytes"),
    ]
    settings = [(setting.path, str(setting.value)) for setting in summary.settings]
    parts = table("Parts and settings", ("path", "value"), settings, text_columns=2)
    published = summary.published or {}
    cautions = "\n".join(f"caution: {caution}" for caution in summary.cautions)
    sections = [table(summary.name, ("", ""), facts), parts, _published(published), _differences(published), cautions]
    return "\n\n".join(filter(None, sections))


def _published(published: dict[str, Any]) -> str:
    """Published results of a recipe, one line for each figure; "" if there are none."""
    rows: list[Row] = []
    for key, value in published.items():
        words = key.replace("_", " ")
        if isinstance(value, dict):
            rows += [(f"{words}, {name}", _words(v)) for name, v in value.items() if key != "departures"]
        elif value:
            rows.append((words, _words(value)))
    return table("Published by its authors, not measured here", ("", ""), rows, text_columns=2) if rows else ""


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(v)}" for name, v in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def _differences(published: dict[str, Any]) -> str:
    """Differences between a recipe and the published system, with the `--set` for each; "" if there are none."""
    departures = published.get("departures")
    if not isinstance(departures, dict) or not departures:
        return ""
    lines = ["Differences from the published system, and the --set options that remove each:"]
    for words, assignments in departures.items():
        sets = " ".join(f"--set {shlex.quote(assignment)}" for assignment in str(assignments).split())
        lines.append(f"  {words}: {sets or 'no option'}")
    return "\n".join(lines)
