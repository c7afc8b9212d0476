"""Everything that a GPU must show, in one command: `python bench/gpu.py --seconds 480 --out DIR`.

Made for a bare machine with one GPU and no network. Benchmarks, each in its own process with a share of the seconds:
train_step (pr1855, ms per step in both phases, with a profile), reference (a public record script on the same data),
gpu_tests (tests marked `gpu`), full_run (pr1855 from shards to score), kernel_ablation (of pr1855's looped step),
recipe_speed, scoring, quantize_pack.
DIR/gpu.jsonl gets a line for each measurement as it comes, and one for each failure; DIR/BENCHMARK.log has the rest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from gpu_benchmarks.job import BenchmarkJob
from gpu_benchmarks.results import ResultsWriter
from gpu_benchmarks.runner import Benchmark, BenchmarkInterrupted, Command, log, run_benchmarks
from gpu_benchmarks.wheels import install

ROOT = Path(__file__).resolve().parents[1]
PREPARE = Benchmark("prepare", 60)
BENCHMARKS = (
    Benchmark("train_step", 40),
    Benchmark("reference", 36),
    Benchmark("gpu_tests", 8),
    Benchmark("full_run", 50),
    Benchmark("kernel_ablation", 16),
    Benchmark("recipe_speed", 12),
    Benchmark("scoring", 8),
    Benchmark("quantize_pack", 8),
)


def main() -> int:
    options = parse()
    if not options.toy and not has_cuda():
        print("bench/gpu.py: there is no CUDA device here; --toy tries everything at toy size on the CPU")
        return 1
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    job = BenchmarkJob(
        out=str(out),
        training_seconds=options.training_seconds,
        text=absolute_or_empty(options.text),
        tokenizer=absolute_or_empty(options.tokenizer),
        shards=absolute_or_empty(options.shards),
        reference=absolute_or_empty(options.reference),
        commit=options.commit or commit(),
        toy=options.toy,
    )
    job.save(out / "job.json")
    try:
        outcomes = run_benchmarks(
            selected_benchmarks(options), command(out), job, options.seconds, environment(options.wheels, out)
        )
    except BenchmarkInterrupted as stopped:
        log(str(stopped))
        return 143
    failed = {benchmark: why for benchmark, why in outcomes.items() if why}
    ResultsWriter(job, "all").add("finished", benchmarks=list(outcomes), failed=failed)
    log(f"{len(outcomes) - len(failed)} of {len(outcomes)} benchmarks done; {job.results}")
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser.add_argument("--seconds", type=float, default=480.0, help="for everything, the preparation included")
    parser.add_argument("--out", type=Path, required=True, help="results, logs, shards, caches of compiled kernels")
    parser.add_argument("--text", type=Path, help="text (jsonl.zst, txt, a folder, …); default: random words")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer for the text; default: one is trained on it")
    parser.add_argument("--shards", type=Path, help="a folder made by `bitgolf data make`, in place of --text")
    parser.add_argument("--reference", type=Path, help="train_gpt.py of openai/parameter-golf, pull request 1855")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install into DIR/site first")
    parser.add_argument("--training-seconds", type=float, default=60.0, help="limit of the benchmark `full_run`")
    parser.add_argument("--commit", default="", help="the tree's commit, where git cannot tell it")
    parser.add_argument("--only", type=benchmark_names, default=names, metavar="A,B", help=f"of {', '.join(names)}")
    parser.add_argument("--skip", type=benchmark_names, default=[], metavar="A,B")
    parser.add_argument("--toy", action="store_true", help="tiny models, on the CPU if need be: tries the command")
    options = parser.parse_args()
    for name in ("text", "tokenizer", "shards", "reference", "wheels"):
        path = getattr(options, name)
        if path and not path.exists():
            parser.error(f"--{name}: there is no {path}")
    if options.shards and (options.text or options.tokenizer):
        parser.error("--shards have their text and tokenizer; leave --text and --tokenizer out")
    return options


def benchmark_names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := sorted(set(names) - {benchmark.name for benchmark in BENCHMARKS}):
        raise argparse.ArgumentTypeError(
            f"no benchmark {unknown[0]!r}; benchmarks: {', '.join(b.name for b in BENCHMARKS)}"
        )
    return names


def selected_benchmarks(options: argparse.Namespace) -> list[Benchmark]:
    """The selected benchmarks, in their order, behind the preparation of their data; the reference needs its script."""
    names = set(options.only) - set(options.skip) - (set() if options.reference else {"reference"})
    return [PREPARE, *(benchmark for benchmark in BENCHMARKS if benchmark.name in names)]


def command(out: Path) -> Command:
    return lambda benchmark, limit: [
        sys.executable,
        "-m",
        "gpu_benchmarks",
        benchmark.name,
        str(out / "job.json"),
        str(limit),
    ]


def environment(wheels: Path | None, out: Path) -> dict[str, str]:
    """Of every benchmark: our packages before others, and one cache of compiled kernels for all."""
    folders = [ROOT / "src", ROOT / "bench"]
    if wheels:
        site = out / "site"
        log(f"wheels from {wheels}: {install(wheels, site)}")
        folders.append(site)
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(out / "cache/inductor"), "TRITON_CACHE_DIR": str(out / "cache/triton")}
    inherited = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    path = os.pathsep.join([*map(str, folders), *inherited])
    return {**os.environ, **caches, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def absolute_or_empty(path: Path | None) -> str:
    return str(path.resolve()) if path else ""


def commit() -> str:
    """The commit of this tree, with a plus where files differ from it; "" where there is no git or no repository."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
