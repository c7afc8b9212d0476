"""Results of commands as tables for a terminal."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bitgolf.config.requirements import CODE_FOLDER
from bitgolf.report.display import current_display
from bitgolf.report.progress import duration
from bitgolf.report.text_table import Row, text_table
from bitgolf.report.wrapping import columns_of, line_width, wrap

if TYPE_CHECKING:
    from bitgolf.commands.artifacts import LedgerResult, ScoreResult
    from bitgolf.commands.pack import PackResult
    from bitgolf.commands.sweep import SweepResult
    from bitgolf.commands.to_web import WebPageResult
    from bitgolf.pipeline.compression import ArtifactSizes
    from bitgolf.pipeline.result import HeldOutText, RunResult
    from bitgolf.score.result import CompressResult, MethodResult, ProofResult


def compression_line(result: CompressResult) -> str:
    """Sizes and rates of a compressed file."""
    rates = f"{result.bpb_coded:.4f} bpb coded, {result.bpb_predicted:.4f} bpb predicted"
    return f"{result.bytes_in:,} -> {result.bytes_out:,} bytes, {rates} ({result.arithmetic} arithmetic)"


def proof_line(result: ProofResult) -> str:
    """Sizes of a proof, and how much of it was restored."""
    above = f"{result.overhead_percent:.3f} % above the claimed {result.claimed_bpb:.5f} bpb"
    restored = f"{len(result.sampled)} of {result.groups} groups restored by another process"
    return f"{result.bytes:,} -> {result.coded_bytes:,} bytes, {above}; {restored}"


def web_page_line(result: WebPageResult) -> str:
    """Where a page is, and its size."""
    share = f"{result.bytes / result.artifact_bytes:.2f} times the artifact's {result.artifact_bytes:,}"
    return f"{result.page}: {result.bytes:,} bytes, {share}; window of {result.window:,} tokens"


def table(title: str, columns: Sequence[str], rows: Iterable[Row], *, text_columns: int = 1) -> str:
    """A table as text that fits standard output. The first `text_columns` columns hold texts, the others numbers."""
    width = line_width(sys.stdout)
    return "\n".join(
        [*(wrap(title, width) if title else ()), *text_table(columns, rows, text_columns=text_columns, width=width)]
    )


def format_number(value: Any, spec: str = ",") -> str:
    """A number in the given format, "-" for None."""
    return "-" if value is None else format(value, spec)


def run_table(result: RunResult) -> str:
    """The result of `run`: bits per byte by stage, bytes, time, where its files are, and commands to try next.

    With --verbose, all tables of the report as well.
    """
    gain = next((method.gain for method in reversed(result.methods) if method.gain is not None), None)
    columns = ("stage", "bpb", "gain by adaptation")[: 2 if gain is None else 3]
    bpb = [
        (stage, format_number(value, ".4f"), format_number(gain if stage == "adapted" else None, "+.4f"))[
            : len(columns)
        ]
        for stage, value in result.bpb.items()
        if value is not None
    ]
    title = f"Result of {result.recipe} ({result.hash}), seed {result.seed}, on {_held_out(result.held_out)}"
    notes = [_wrapped(note) for note in (result.quick_note, result.sample_note) if note]
    scores = f"{title}\n\n{table('', columns, bpb)}" if bpb else _wrapped(f"`{_score_command(result)}` scores the run.")
    sections = [*notes, scores, _facts(result)]
    if current_display().verbose:
        sections = [*_verbose_tables(result), *sections]
    return "\n\n".join([*sections, _next_steps(result)])


def _wrapped(text: str) -> str:
    return "\n".join(wrap(text, line_width(sys.stdout)))


def _score_command(result: RunResult) -> str:
    return f"bitgolf run {shlex.quote(result.run)} --score-tokens all"


def _next_steps(result: RunResult) -> str:
    """Commands to try with the artifact of a run. Code files that it needs are named."""
    artifact = f"{result.run}/artifact.bg"
    code = [f"--code {shlex.quote(f'{result.run}/{CODE_FOLDER}/{file}')}" for file in result.code]
    steps = [("generate", artifact, "--prompt 'def '", *code), ("compress", artifact, "FILE", "FILE.bgz", *code)]
    if not (result.quick or code):
        steps.append(("run", result.recipe, "--text PATH"))
    return next_steps(*steps)


def _facts(result: RunResult) -> str:
    """Comparison with other compressors, bytes, time, and files of a run."""
    rows = list[Row]()
    if trip := result.roundtrip:
        others = ", ".join(f"{name} {bpb:.4f}" for name, bpb in trip.general_compressors_bpb.items())
        rows.append(("others", f"{others} bpb on {trip.general_compressors_bytes:,} bytes of the same text"))
        sizes = f"{trip.bytes_in:,} -> {trip.bytes_out:,} bytes, {trip.bpb_coded:.4f} bpb"
        rows.append(("proof", f"a document compressed and restored bit for bit: {sizes}"))
    longest = sorted(result.seconds.items(), key=lambda item: -item[1])[:3]
    stages = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in longest)
    rows += [
        *_size_rows(result.bytes),
        ("time", f"{duration(sum(result.seconds.values()))}: {stages}"),
        ("report", f"{result.run}/report.html"),
        ("artifact", f"{result.run}/artifact.bg"),
    ]
    return table("", ("", ""), rows, text_columns=2)


def _size_rows(sizes: ArtifactSizes) -> list[Row]:
    """What counts against the cap, and the size of the code."""
    used = f"{abs(sizes.cap - sizes.total):,} {'under' if sizes.total <= sizes.cap else 'over'} the cap"
    counted = (
        f"model {sizes.model:,} and code {sizes.code:,}" if sizes.code_counts else "the model without the tokenizer"
    )
    return [
        ("bytes", f"{sizes.total:,} / {sizes.cap:,}, {used}: {counted}"),
        ("code", code_words(sizes.code, sizes.code_note, counted=sizes.counted)),
    ]


def code_words(code: int | None, note: str, *, counted: str) -> str:
    """The size of a recipe's script, and whether the cap limits it. code: bytes, None for the reason `note`."""
    if code is None:
        return f"unknown: {note}"
    how = "the cap includes it" if counted == "model+code" else "the cap is of the model alone"
    return f"{code:,} bytes, the script that `bitgolf export` writes; {how}"


def _verbose_tables(result: RunResult) -> list[str]:
    """What each part touched, the scores of the artifact, its sizes, and the seconds of each stage."""
    own = result.bytes
    sizes = [("model", own.model), ("code", own.code), ("tokenizer", own.tokenizer), ("total", own.total)]
    sizes += [("self-contained", own.self_contained), ("cap", own.cap)]
    used = [
        (row.part, format_number(row.tensors), format_number(row.parameters), format_number(row.calls))
        for row in result.part_usage
    ]
    return [
        table("Parts in use", ("part", "tensors", "parameters", "calls"), used),
        methods_table(result.methods),
        table(f"Bytes (total: {own.counted})", ("", "bytes"), [(name, format_number(n)) for name, n in sizes]),
        table("Time", ("stage", "seconds"), [(k, format_number(v, ".1f")) for k, v in result.seconds.items()]),
    ]


def _held_out(text: HeldOutText) -> str:
    sidecar = "" if text.sidecar_bytes is None else f"; the byte sidecar counts {text.sidecar_bytes:,}"
    return f"{text.bytes:,} bytes of held-out text{sidecar}"


def next_steps(*commands: Sequence[str]) -> str:
    """Commands to try next, each as its name, a path, and further words. Lines that are too long are continued by a \\."""
    lines = ["Try next:"]
    for name, path, *rest in commands:
        words = [f"bitgolf {name}", shlex.quote(path), *rest]
        line = "  " + " ".join(words)
        lines.append(line if columns_of(line) <= line_width(sys.stdout) else "  " + " \\\n    ".join(words))
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
    columns = (
        "method",
        "documents",
        "order",
        "bpb",
        "bpb without adaptation",
        "gain bpb",
        "window tokens",
        "stride tokens",
    )
    return table("Score", (*columns, "targets/s", "targets/ token read", "seconds"), rows, text_columns=3)


def ledger_table(result: LedgerResult) -> str:
    """The result of `ledger`: a row for each section of the artifact."""
    rows = [
        (e.name, e.coder, format_number(e.bytes), format_number(e.elements), format_number(e.bits_per_element, ".3f"))
        for e in result.entries
    ]
    total = ("total", "", format_number(result.total), "", "")
    columns = ("name", "coder", "bytes", "elements", "bits/ element")
    drawn = table("Ledger", columns, [*rows, total], text_columns=2)
    return "\n".join([drawn, *(f"needs {needed}" for needed in result.requires)])


def pack_table(result: PackResult) -> str:
    """The result of `pack`: all encodings that were tried, and the changed settings."""
    probes = [
        (format_number(t.log2_step_scale, "+.5f"), format_number(t.predicted_bytes), format_number(t.bytes), format_number(t.bytes - result.cap, "+,"),
         format_number(100 * (t.predicted_bytes / t.bytes - 1), "+.2f"))
        for t in result.probes
    ]  # fmt: skip
    columns = ("log2 step scale", "predicted bytes", "bytes", "bytes over the cap", "prediction error %")
    changed = [(s.path, str(s.before), str(s.after)) for s in result.settings]
    code = "code that is unknown" if result.code is None else f"{result.code:,} bytes of code"
    counted = {"model": "without the tokenizer", "file": "the whole file", "model+code": f"with {code}"}[result.counted]
    under = f"{result.bytes_under_cap:,} under the cap ({result.bytes_under_cap / result.cap:.3%})"
    under += "; these are the finest steps: no larger file is possible" if result.finest else ""
    return "\n\n".join(
        [
            table("Probes", columns, probes, text_columns=0),
            table("Settings", ("path", "before", "after"), changed, text_columns=3),
            f"{result.bytes:,} / {result.cap:,} bytes ({counted}), {under}",
            table("", ("", ""), [("artifact", result.artifact), ("settings", result.recipe)], text_columns=2),
            next_steps(("score", result.artifact, f"--shards {shlex.quote(f'{result.run}/data')}")),
        ]
    )


def sweep_table(result: SweepResult) -> str:
    """The result of `sweep`: a row for each combination of settings; columns without values are left out."""
    columns = {
        "bytes": [format_number(row.bytes) for row in result.rows],
        "predicted gap bpb": [format_number(row.predicted_gap_bpb, "+.5f") for row in result.rows],
        "bpb": [format_number(row.bpb, ".5f") for row in result.rows],
        "gap bpb": [format_number(row.gap_bpb, "+.5f") for row in result.rows],
    }
    known = {name: cells for name, cells in columns.items() if any(cell != "-" for cell in cells)}
    rows = [
        (*(row.settings[path] for path in result.paths), *cells)
        for row, *cells in zip(result.rows, *known.values(), strict=True)
    ]
    averaged = result.averaged_bpb
    unquantized = "" if averaged is None else f"\n\nunquantized (averaged weights): {averaged:.5f} bpb"
    return table("Sweep", (*result.paths, *known), rows, text_columns=len(result.paths)) + unquantized
