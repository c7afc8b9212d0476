"""Speed of a public record script on the same shards: train_gpt.py of openai/parameter-golf, pull request 1855.

The script is not part of this repository and is run unchanged. Environment variables set the batch of one of eight
GPUs, no validation, and a few steps in each phase. The process is ended once its last step is logged.
"""

from __future__ import annotations

import importlib.util
import os
import re
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from bitgolf.data.manifest import SPLITS, load_manifest
from bitgolf.tokens.caseops_tokenizer import MAGIC
from gpu_benchmarks import harness
from gpu_benchmarks.job import GPUS, RECIPE, BenchmarkJob
from gpu_benchmarks.results import ResultsWriter, read_results

STEPS, EVERY, WARM_UP = 160, 10, 5
STUB_FOLDER = Path(__file__).parent / "flash_attn_stub"
STEP = re.compile(r"(\d+)/(\d+) train_loss: \S+ train_time: \S+ tok/s: (\d+)")
LOOPS = re.compile(r"layer_loop:enabled step:(\d+)")
PUBLISHED = {
    # The settings of its README that affect training.
    "SPARSE_ATTN_GATE_ENABLED": "1", "SPARSE_ATTN_GATE_SCALE": "0.5", "SMEAR_GATE_ENABLED": "1", "GATE_WINDOW": "12",
    "FUSED_CE_ENABLED": "1", "MATRIX_LR": "0.026", "MIN_LR": "0.1", "BETA2": "0.99", "GRAD_CLIP_NORM": "0.3",
    "WARMDOWN_FRAC": "0.85", "MUON_BACKEND_STEPS": "5",
}  # fmt: skip


class ReferenceLog(NamedTuple):
    """Values from a script's log. elapsed: step -> seconds of its training clock; loops: first step with loops."""

    elapsed: dict[int, float]
    loops: int | None


def measure(job: BenchmarkJob, results: ResultsWriter) -> None:
    """Run the script and report the speed of both phases."""
    folder = job.folder / "reference"
    settings, started = environment(job, folder), time.monotonic()
    tokens, text, first = int(settings["TRAIN_BATCH_TOKENS"]), "", 0.0
    with subprocess.Popen(
        [sys.executable, "-u", job.reference], cwd=folder, env=settings, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="")
            text += line
            if step := STEP.match(line):
                first = first or time.monotonic() - started
                if step[1] == step[2]:
                    process.kill()  # validation would follow
            if LOOPS.match(line):
                report("loops off", parse_log(text, tokens), first, job, results)
    report("loops on", parse_log(text, tokens), first, job, results)


def report(phase: str, log: ReferenceLog, first: float, job: BenchmarkJob, results: ResultsWriter) -> None:
    """Write a line with the script's speed in a phase, and one with the ratio to `train_step` if that was measured.

    first: seconds until the first step was logged. Raises `SystemExit` if the log has too few steps of this phase.
    """
    ms = step_ms(log, phase)
    if not ms:
        raise SystemExit(f"{job.reference}: the log has fewer than two steps with {phase}")
    median = round(statistics.median(ms), 2)
    results.add(
        phase,
        ms=median,
        range=[round(min(ms), 2), round(max(ms), 2)],
        startup_seconds=round(first, 1),
        attention="PyTorch's, as a stub" if uses_stub() else "FlashAttention 3",
    )
    ours = [
        line["ms"]
        for line in read_results(job.results)
        if (line["benchmark"], line["measurement"]) == ("train_step", phase)
    ]
    if ours:
        both = {"ours_ms": ours[-1], "reference_ms": median}
        results.add(f"{phase}, reference ms / our ms", ratio=round(median / ours[-1], 4), **both)


def environment(job: BenchmarkJob, folder: Path) -> dict[str, str]:
    """Environment variables of the script. Links the shards under the names that the script expects."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    manifest = load_manifest(job.data)
    for split in SPLITS:
        for i, shard in enumerate(manifest.split(split).shards):
            link = data / f"fineweb_{split}_{i:06d}.bin"
            link.unlink(missing_ok=True)
            link.symlink_to(Path(manifest.shards_folder or job.data, shard.name).resolve())
    tokenizer = folder / "tokenizer.model"  # the plain SentencePiece model, without the header of CaseOps
    tokenizer.write_bytes((job.data / "tokenizer.model").read_bytes().removeprefix(MAGIC))
    train = harness.recipe_for(RECIPE, toy=job.toy)().train
    modules = [str(STUB_FOLDER)] * uses_stub() + [os.environ["PYTHONPATH"]]
    return {
        **os.environ,
        **PUBLISHED,
        "PYTHONPATH": os.pathsep.join(modules),
        "DATA_PATH": str(data),
        "TOKENIZER_PATH": str(tokenizer),
        "VOCAB_SIZE": str(manifest.vocab),
        "WORLD_SIZE": str(GPUS),  # without RANK, the script runs as one process with the batch of one GPU
        "TRAIN_BATCH_TOKENS": str(GPUS * train["rows"] * train["length"]),
        "ITERATIONS": str(STEPS),
        "MAX_WALLCLOCK_SECONDS": "0",
        "ENABLE_LOOPING_AT": "0.5",
        "WARMUP_STEPS": str(WARM_UP),
        "TRAIN_LOG_EVERY": str(EVERY),
        "VAL_LOSS_EVERY": "0",
        "ARTIFACT_DIR": str(folder),
        "RUN_ID": "reference",
    }


def uses_stub() -> bool:
    """Whether the stub is needed, because FlashAttention 3 is not installed."""
    return importlib.util.find_spec("flash_attn_interface") is None


def parse_log(text: str, tokens: int) -> ReferenceLog:
    """Parse a log. tokens: per step, over all GPUs. The script logs tokens/s as a mean since step 0."""
    steps = [match for line in text.splitlines() if (match := STEP.match(line))]
    loops = LOOPS.search(text)
    return ReferenceLog({int(m[1]): int(m[1]) * tokens / int(m[3]) for m in steps}, int(loops[1]) if loops else None)


def step_ms(log: ReferenceLog, phase: str) -> list[float]:
    """Milliseconds per step between successive logged steps of a phase.

    The first step of the phase is left out, since it may include compilation.
    """
    if log.loops is None:
        return []
    first, last = (log.loops + 1, STEPS) if phase == "loops on" else (1, log.loops)
    marks = [step for step in range(0, STEPS + 1, EVERY) if first <= step <= last and step in log.elapsed]
    return [1e3 * (log.elapsed[b] - log.elapsed[a]) / (b - a) for a, b in pairwise(marks)]
