"""Contents of a run's page with plausible numbers, to render it without a run."""

from __future__ import annotations

import math
import random
from typing import Any

from bitgolf.artifact.ledger import LedgerEntry
from bitgolf.data.manifest import Manifest, ShardEntry, SplitManifest
from bitgolf.pipeline.calibration import CalibrationSummary, TrainingClock
from bitgolf.pipeline.compression import ArtifactSizes
from bitgolf.pipeline.html_report.contents import ReportContents, TrainingCurve
from bitgolf.pipeline.result import HeldOutText, RunResult
from bitgolf.pipeline.state import RunInputs
from bitgolf.pipeline.training_result import PartUsageRow
from bitgolf.quantize.encoding import TensorReport
from bitgolf.report.events import MeasuredStep
from bitgolf.score.result import BitBreakdown, BitsRow, MethodResult, RoundTripResult

LEDGER = {
    "matrix.codes": (240_000, 480_000), "embedding.codes": (81_234, 131_072), "tokenizer": (12_345, 0),
    "matrix.scales": (6_200, 4_096), "header": (1_834, 0), "embedding.scales": (900, 600), "scale.values": (520, 260),
    "frame": (12, 0),
}  # fmt: skip
"""Section -> bytes and elements."""


def losses(steps: int) -> list[tuple[int, float]]:
    """A training loss that falls, with noise."""
    draw = random.Random(0)
    return [(step, 2.6 + 4 * math.exp(-6 * step / steps) + draw.gauss(0, 0.06)) for step in range(1, steps + 1)]


def training(steps: int) -> TrainingCurve:
    """What the log of a training of this many steps says: a warm-down, slow first steps, checkpoints."""
    draw = random.Random(1)
    times = [MeasuredStep(step, 0.118 + 0.2 * (step == 1) + draw.gauss(0, 0.002)) for step in range(1, steps + 1)]
    return TrainingCurve(
        losses(steps),
        phases=[(7 * steps // 10, 0.7)],
        rate_factors=[(step, min(1.0, 2 * (1 - step / steps))) for step in range(1, steps + 1)],
        step_times=times,
        checkpoints=range(steps // 4, steps + 1, max(1, steps // 4)),
        recompilations=[1],
        warm_ups=[(0.0, 31.2), (0.7, 12.9)],
    )


def rows(bits: float, shares: dict[str, tuple[int, float]]) -> list[BitsRow]:
    """Rows of a breakdown of 420,000 targets. shares: percent of the targets, and of the bits."""
    return [
        BitsRow(n, 4_200 * t, 12_345 * t if n != "end of document" else 0, bits * b / 100)
        for n, (t, b) in shares.items()
    ]


def breakdown(bits: float) -> BitBreakdown:
    kinds = {
        "whole word": (34, 31.0), "first piece of a word": (14, 27.0), "later piece of a word": (26, 21.0), "digits": (5, 7.5),
        "punctuation": (14, 9.0), "white space": (4, 2.0), "byte": (2, 1.9), "end of document": (1, 0.6),
    }  # fmt: skip
    powers = {
        "0 to 15": (4, 8.0),
        "16 to 31": (4, 5.5),
        "32 to 63": (8, 10.0),
        "64 to 127": (16, 18.0),
        "128 to 255": (68, 58.5),
    }
    often = {
        "once": (9, 21.0),
        "2 to 9 times": (17, 25.0),
        "10 to 99 times": (24, 20.0),
        "100 to 999 times": (24, 13.0),
        "no word": (26, 21.0),
    }
    return BitBreakdown(rows(bits, kinds), rows(bits, powers), rows(bits, powers), rows(bits, often))


def tensors() -> list[TensorReport]:
    """Quantization errors of four layers and two tables."""
    draw = random.Random(2)
    found = [TensorReport("embed.weight", "embedding", "IntRows", 131_072, 0.02, 0.0061, 5.1)]
    for layer in range(4):
        for name in ("mixer.q", "mixer.k", "mixer.v", "mixer.o", "mlp.up", "mlp.down"):
            path, error = f"blocks.{layer}.{name}.weight", 0.004 * math.exp(draw.gauss(0, 0.3))
            found.append(
                TensorReport(path, "matrix", "TrellisCodec", 16_384, 5 * error, error, 4.1 + draw.gauss(0, 0.1))
            )
        found.append(TensorReport(f"blocks.{layer}.gain", "scale", "Float", 128, 0.0, 0.0, 16.0))
    return found


def method(name: str, bpb: float, **settings: Any) -> MethodResult:
    """A score of 1,234,567 bytes by a method."""
    plain: dict[str, Any] = {
        "order_bits": 0, "adapts": False, "bpb_without_adaptation": None, "gain": None, "compile_seconds": 0.0, "time_limit_seconds": 600.0,
        "forecast_seconds": 3.9, "targets_per_second": 105_000.0, "targets_per_token_read": 1.0, "window": 1_024, "stride": 1_024,
        "cross_document": False, "order": "corpus", "processes": 1, "device": "CPU, float32", "kernels": [], "batch_tokens": 4_096, "warnings": [],
    }  # fmt: skip
    counts = {"bits": bpb * 1_234_567, "bytes": 1_234_567, "targets": 420_000, "tokens_read": 420_000, "seconds": 4.0}
    found = {"breakdown": breakdown(bpb * 1_234_567)}
    return MethodResult(method=name, bpb=bpb, **{**plain, **counts, **found, **settings})


def run_result(**changed: Any) -> RunResult:
    """The result of a run with three methods, calibration and a proof."""
    held_out = HeldOutText(documents=900, tokens=420_000, bytes=1_234_567, sidecar_bytes=None)
    trip = RoundTripResult(
        bytes_in=16_012, bytes_out=3_612, bpb_coded=1.8047, bpb_predicted=1.7921, method="sliding", seconds=2.1, decompress_seconds=2.2,
        restored=True, general_compressors_bpb={"xz -9e": 2.31, "zstd -19": 2.36, "brotli 11": 2.28}, general_compressors_bytes=1_234_567,
    )  # fmt: skip
    adapted = {"adapts": True, "bpb_without_adaptation": 1.7912, "gain": 0.0321, "cross_document": True}
    fields: dict[str, Any] = {
        "run": "runs/quickstart", "recipe": "quickstart", "hash": "23b1d3177684890e", "seed": 0, "device": "CPU, 2 threads, float32",
        "params": 612_345, "tokens": 2_048_000, "steps": 500,
        "seconds": {"prepare": 6.1, "train": 64.2, "average": 0.4, "calibrate": 2.9, "quantize": 8.8, "pack": 1.2, "score": 21.7},
        "training_clock": TrainingClock(57.1, 2.8, 59.9, 60.0),
        "calibration": CalibrationSummary(source="TrainingText", tokens=16_384, matrices=24, hessians=16),
        "bpb": {"trained": 1.8012, "averaged": 1.7899, "packed": 1.7988, "sliding": 1.7912, "adapted": 1.7591},
        "held_out": held_out,
        "bytes": ArtifactSizes(model=330_700, tokenizer=12_345, total=330_700, self_contained=343_045, cap=1_000_000),
        "fits": True, "roundtrip": trip,
        "methods": [method("contiguous", 1.7988), method("sliding", 1.7912, stride=256), method("ngram", 1.7591, **adapted)],
        "part_usage": [PartUsageRow("Linear", 24, 480_000, 24), PartUsageRow("Muon on matrix", 24, 480_000, 1)],
    }  # fmt: skip
    return RunResult(**{**fields, **changed})


def report_contents(**changed: Any) -> ReportContents:
    """The contents of a page; `changed` replaces some of them."""
    entries = [
        LedgerEntry(name, size, elements, 8 * size / elements if elements else None, "range")
        for name, (size, elements) in LEDGER.items()
    ]
    fields: dict[str, Any] = {
        "result": run_result(),
        "inputs": RunInputs(seed=0, text=("corpus/*.txt",)),
        "data": Manifest(
            tokenizer="0123456789abcdef", vocab=1_024, bos=1, train=split("train", 4), val=split("val", 1)
        ),
        "data_digest": "fedcba9876543210",
        "ledger": entries,
        "settings": [("recipe", "Recipe"), ("name", "quickstart"), ("model", "LM"), ("model.dim", "128")],
        "environment": {
            "python": "3.11.7", "machine": "x86_64", "cpu_name": "A CPU @ 2.60GHz", "cores": 2, "threads": 2, "cpu": "AVX2",
            "gpus": [], "cuda": None, "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
        },
        "training": training(500),
        "tensors": tensors(),
        "learning_rates": [("Muon on matrix", 0.02), ("Adam on *", 0.003)],
        "read": ["read 9,900 documents from 12 files (12 text)"],
        "warnings": ["training read its text 1.2 times (2,048,000 tokens): more text may improve the score"],
        "finished": "2026-11-28 01:50 UTC",
    }  # fmt: skip
    return ReportContents(**{**fields, **changed})


def split(name: str, shards: int) -> SplitManifest:
    """The manifest of a split with this many shards."""
    entries = tuple(ShardEntry(f"{name}_{i:06d}.bin", 420_000, f"{i:016x}") for i in range(shards))
    size = 1_234_567 * shards
    return SplitManifest(900 * shards, 420_000 * shards, size, size, 0, entries, "00112233445566778899")
