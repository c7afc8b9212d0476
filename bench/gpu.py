"""All GPU benchmarks in one command: `python bench/gpu.py --seconds 480 --out DIR`.

It runs on a machine with one GPU and no network. Each benchmark has its own process and a share of the seconds:

- train_step: milliseconds per step of pr1855 in both phases, with a profile.
- reference: the same for a public record script on the same data.
- gpu_tests: the tests marked `gpu`.
- full_run: pr1855 from shards to score.
- kernel_ablation: a looped step of pr1855 with one kernel or setting changed.
- recipe_speed, scoring, quantize_pack: training speed of other recipes, scoring speed, time to compress.

Each measurement and each failure is one line of DIR/gpu.jsonl. DIR/BENCHMARK.log has the other output.
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
        print("bench/gpu.py: no CUDA device found; --toy runs all benchmarks at toy size on the CPU")
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
    """Parse the options. Exits with an error if a path does not exist or options exclude each other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser.add_argument(
        "--seconds", type=float, default=480.0, help="Time limit for all benchmarks, preparation included."
    )
    parser.add_argument("--out", type=Path, required=True, help="Folder for results, logs, shards and kernel caches.")
    parser.add_argument("--text", type=Path, help="Text (jsonl.zst, txt, a folder, …). Default: random words.")
    parser.add_argument("--tokenizer", type=Path, help="Tokenizer for the text. Default: one is trained on it.")
    parser.add_argument("--shards", type=Path, help="Folder made by `bitgolf data make`, instead of --text.")
    parser.add_argument("--reference", type=Path, help="train_gpt.py of openai/parameter-golf, pull request 1855.")
    parser.add_argument("--wheels", type=Path, help="Folder of wheels to install into DIR/site first.")
    parser.add_argument(
        "--training-seconds", type=float, default=60.0, help="Training time of the benchmark `full_run`, in seconds."
    )
    parser.add_argument("--commit", default="", help="Commit of this tree, if git is not available.")
    parser.add_argument(
        "--only", type=benchmark_names, default=names, metavar="A,B", help=f"Benchmarks to run, of {', '.join(names)}."
    )
    parser.add_argument("--skip", type=benchmark_names, default=[], metavar="A,B", help="Benchmarks to leave out.")
    parser.add_argument(
        "--toy", action="store_true", help="Use tiny models, on the CPU if there is no GPU, to try the command."
    )
    options = parser.parse_args()
    for name in ("text", "tokenizer", "shards", "reference", "wheels"):
        path = getattr(options, name)
        if path and not path.exists():
            parser.error(f"--{name}: there is no file or folder {path}")
    if options.shards and (options.text or options.tokenizer):
        parser.error("--shards excludes --text and --tokenizer, since shards are already tokenized")
    return options


def benchmark_names(text: str) -> list[str]:
    """Parse a list of benchmarks separated by commas. Raises `ArgumentTypeError` for an unknown one."""
    names = text.split(",")
    if unknown := sorted(set(names) - {benchmark.name for benchmark in BENCHMARKS}):
        raise argparse.ArgumentTypeError(
            f"no benchmark {unknown[0]!r}; benchmarks: {', '.join(b.name for b in BENCHMARKS)}"
        )
    return names


def selected_benchmarks(options: argparse.Namespace) -> list[Benchmark]:
    """`prepare`, then the selected benchmarks in their order. `reference` is left out unless its script is given."""
    names = set(options.only) - set(options.skip) - (set() if options.reference else {"reference"})
    return [PREPARE, *(benchmark for benchmark in BENCHMARKS if benchmark.name in names)]


def command(out: Path) -> Command:
    """Function that returns the command line of a benchmark."""
    return lambda benchmark, limit: [
        sys.executable,
        "-m",
        "gpu_benchmarks",
        benchmark.name,
        str(out / "job.json"),
        str(limit),
    ]


def environment(wheels: Path | None, out: Path) -> dict[str, str]:
    """Environment variables of all benchmarks: PYTHONPATH, and caches of compiled kernels that they share.

    Installs the wheels into `out`/site if there are any.
    """
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
    """The commit of this tree, followed by "+" if files differ from it; "" without git or outside a repository."""
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
