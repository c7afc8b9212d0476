"""The sections of a run's page that are tables and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bitgolf.data.manifest import SplitManifest
from bitgolf.pipeline.html_report.contents import ReportContents
from bitgolf.pipeline.result import RunResult
from bitgolf.report.web_page import bullets, facts, folded, paragraph, section, side_by_side, table
from bitgolf.score.result import MethodResult

METHOD_COLUMNS = (
    "method", "documents", "order", "bits per byte", "without adaptation", "gain", "targets", "window", "stride",
    "targets/s", "s",
)  # fmt: skip
WARNINGS = "warnings"
"""Id of the section of warnings."""
ENVIRONMENT_NAMES = {
    "platform": "system", "machine": "architecture", "cpu_name": "CPU", "cpu": "CPU features", "cores": "CPU cores",
    "threads": "threads of PyTorch", "cuda": "CUDA", "python": "Python",
}  # fmt: skip
SHOWN_SHARDS = 20
SHOWN_WARNINGS = 100


def run_sections(contents: ReportContents) -> str:
    """All sections below the charts, in their order; those without contents are left out."""
    result = contents.result
    return "".join(
        (
            _proof(result),
            _methods(result),
            _data(contents),
            side_by_side(_recipe(contents), section("Environment", facts(_environment(contents.environment, result)))),
            _warnings(contents.warnings),
            _part_usage(result),
        )
    )


def _warnings(messages: Sequence[str]) -> str:
    more = len(messages) - SHOWN_WARNINGS
    rest = paragraph(f"{more:,} more are in log.jsonl.") if more > 0 else ""
    return section("Warnings", bullets(messages[:SHOWN_WARNINGS]) + rest, anchor=WARNINGS)


def _proof(result: RunResult) -> str:
    """What was compressed and restored."""
    if (trip := result.roundtrip) is None:
        return ""
    outcome = "restored byte for byte" if trip.restored else "NOT restored"
    text = (
        f"One held-out document was compressed with artifact.bg by one process and {outcome} by another, which had"
        " only the artifact and the compressed file."
    )
    over = f" ({trip.bpb_coded / trip.bpb_predicted - 1:+.2%})" if trip.bpb_predicted else ""
    rows = [
        ("document", f"{trip.bytes_in:,} bytes"),
        ("compressed file", f"{trip.bytes_out:,} bytes"),
        ("coded", f"{trip.bpb_coded:.4f} bits per byte{over}, header and checksums included"),
        ("predicted", f"{trip.bpb_predicted:.4f} bits per byte"),
        ("method", trip.method),
        ("compression", f"{trip.seconds:,.1f} s"),
        ("decompression", f"{trip.decompress_seconds:,.1f} s"),
    ]
    return section("Proof by compression", paragraph(text) + facts(rows))


def _methods(result: RunResult) -> str:
    """Scores of the artifact."""
    if not result.methods:
        return ""
    rows = table(METHOD_COLUMNS, map(_method_row, result.methods), text_columns=3)
    orders = [
        f"{m.method}: {m.order_bits:,} bits for the order of the documents are part of its score."
        for m in result.methods
        if m.order_bits
    ]
    over = [
        f"{m.method}: {m.seconds - m.compile_seconds:,.1f} s, over the limit of {m.time_limit_seconds:,.0f} s."
        for m in result.methods
        if m.seconds - m.compile_seconds > m.time_limit_seconds
    ]
    text = "Every target is scored exactly once, by the artifact as it is read back from disk."
    return section("Scoring methods", paragraph(text) + rows + bullets([*orders, *over]))


def _method_row(m: MethodResult) -> tuple[str, ...]:
    without, gain = (
        "" if v is None else format(v, f) for v, f in ((m.bpb_without_adaptation, ".4f"), (m.gain, "+.4f"))
    )
    documents = "cross-document" if m.cross_document else "isolated"
    numbers = f"{m.targets:,}", f"{m.window:,}", f"{m.stride:,}", f"{m.targets_per_second:,.0f}", f"{m.seconds:,.1f}"
    return m.method, documents, m.order, f"{m.bpb:.4f}", without, gain, *numbers


def _data(contents: ReportContents) -> str:
    """Where the text is from, its size, and the digests that identify it."""
    data, inputs, settings = contents.data, contents.inputs, dict(contents.settings)
    columns = ("", "documents", "bytes", "tokens", "bytes per token", "shards")
    rows = [_split_row("training", data.train), _split_row("held out", data.val)]
    source = ", ".join(inputs.text) or (
        f"shards in {inputs.shards}" if inputs.shards else f"{settings.get('text', '')}, of the recipe"
    )
    identity = [
        ("text", source),
        ("options of reading", " ".join(inputs.reading.words())),
        ("tokenizer", f"vocabulary {data.vocab:,}, digest {data.tokenizer}"),
        ("tokenizer file", inputs.tokenizer or ""),
        ("digest of the data", contents.data_digest),
    ]
    shards = [(s.name, f"{s.tokens:,}", s.digest) for split in (data.train, data.val) for s in split.shards]
    shown = table(("shard", "tokens", "digest (SHA-256, first 16 digits)"), shards[:SHOWN_SHARDS])
    title = "Shards" if len(shards) <= SHOWN_SHARDS else f"The first {SHOWN_SHARDS} of {len(shards):,} shards"
    return section("Data", table(columns, rows) + facts(identity) + bullets(contents.read) + folded(title, shown))


def _split_row(name: str, split: SplitManifest) -> tuple[str, ...]:
    ratio = f"{split.encoded_bytes / split.tokens:.3f}" if split.tokens else ""
    counts = f"{split.documents:,}", f"{split.encoded_bytes:,}", f"{split.tokens:,}"
    return name, *counts, ratio, f"{len(split.shards):,}"


def _recipe(contents: ReportContents) -> str:
    result = contents.result
    calibration = result.calibration
    observed = f"{calibration.source}, {calibration.tokens:,} tokens, {calibration.matrices:,} matrices"
    rows = [
        ("recipe", result.recipe),
        ("hash", result.hash),
        ("seed", str(result.seed)),
        ("parameters", f"{result.params:,}"),
        ("calibration", observed if calibration.matrices else calibration.source),
    ]
    settings = table(("setting", "value"), contents.settings, text_columns=2)
    title = f"All {len(contents.settings):,} settings, as `bitgolf show` lists them"
    return section("Recipe", facts(rows) + (folded(title, settings) if contents.settings else ""))


def _environment(environment: dict[str, Any], result: RunResult) -> list[tuple[str, str]]:
    """The contents of `environment.json`: machine first, then versions."""
    known = {key: value for key, value in environment.items() if value not in (None, [], {})}
    packages, gpus = known.pop("packages", {}), known.pop("gpus", [])
    rows = [("device", result.device), ("GPUs", ", ".join(map(str, gpus)) or "none")]
    rows += [(ENVIRONMENT_NAMES.get(key, key), str(value)) for key, value in known.items()]
    return rows + [(name, str(version)) for name, version in packages.items()]


def _part_usage(result: RunResult) -> str:
    if not result.part_usage:
        return ""
    rows = [(r.part, f"{r.tensors:,}", f"{r.parameters:,}", f"{r.calls:,}") for r in result.part_usage]
    usage = table(("part", "tensors", "parameters", "calls per pass"), rows)
    title = f"Tensors, parameters and calls of {len(rows):,} kinds of parts and optimizer rules"
    return section("Parts in use", folded(title, usage))
