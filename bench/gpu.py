"""Everything that a GPU must show, in one command: `python bench/gpu.py --seconds 480 --out DIR`.

Made for a bare machine with one GPU and no network. Parts, each in a process of its own with a share of the seconds:
step (pr1855, ms a step in both phases, with a profile), reference (a public record script on the same data), tests
(those marked `gpu`), run (pr1855 from shards to score), variants (of pr1855's looped step), recipes, scoring, shrink.
DIR/gpu.jsonl gets a line for each measurement as it comes, and one for each failure; DIR/PART.log has the rest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from gpu_parts.job import Job
from gpu_parts.lines import Lines
from gpu_parts.schedule import Command, Part, Stopped, run_parts, say
from gpu_parts.wheels import install

ROOT = Path(__file__).resolve().parents[1]
PREPARE = Part("prepare", 60)
PARTS = (
    Part("step", 40),
    Part("reference", 36),
    Part("tests", 8),
    Part("run", 50),
    Part("variants", 16),
    Part("recipes", 12),
    Part("scoring", 8),
    Part("shrink", 8),
)


def main() -> int:
    options = parse()
    if not options.toy and not has_cuda():
        print("bench/gpu.py: there is no CUDA device here; --toy tries everything at toy size on the CPU")
        return 1
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    job = Job(
        out=str(out),
        clock=options.clock,
        text=absolute(options.text),
        tokenizer=absolute(options.tokenizer),
        shards=absolute(options.shards),
        reference=absolute(options.reference),
        commit=options.commit or commit(),
        toy=options.toy,
    )
    job.save(out / "job.json")
    try:
        outcomes = run_parts(chosen(options), command(out), job, options.seconds, environment(options.wheels, out))
    except Stopped as stopped:
        say(str(stopped))
        return 143
    failed = {part: why for part, why in outcomes.items() if why}
    Lines(job, "all").add("finished", parts=list(outcomes), failed=failed)
    say(f"{len(outcomes) - len(failed)} of {len(outcomes)} parts done; {job.results}")
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [part.name for part in PARTS]
    parser.add_argument("--seconds", type=float, default=480.0, help="for everything, the preparation included")
    parser.add_argument("--out", type=Path, required=True, help="results, logs, shards, caches of compiled kernels")
    parser.add_argument("--text", type=Path, help="text (jsonl.zst, txt, a folder, …); default: random words")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer for the text; default: one is trained on it")
    parser.add_argument("--shards", type=Path, help="a folder made by `bitgolf data make`, in place of --text")
    parser.add_argument("--reference", type=Path, help="train_gpt.py of openai/parameter-golf, pull request 1855")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install into DIR/site first")
    parser.add_argument("--clock", type=float, default=60.0, help="training seconds of the part `run`")
    parser.add_argument("--commit", default="", help="the tree's commit, where git cannot tell it")
    parser.add_argument("--only", type=part_names, default=names, metavar="A,B", help=f"of {', '.join(names)}")
    parser.add_argument("--skip", type=part_names, default=[], metavar="A,B")
    parser.add_argument("--toy", action="store_true", help="tiny models, on the CPU if need be: tries the command")
    options = parser.parse_args()
    for name in ("text", "tokenizer", "shards", "reference", "wheels"):
        path = getattr(options, name)
        if path and not path.exists():
            parser.error(f"--{name}: there is no {path}")
    if options.shards and (options.text or options.tokenizer):
        parser.error("--shards have their text and tokenizer; leave --text and --tokenizer out")
    return options


def part_names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := sorted(set(names) - {part.name for part in PARTS}):
        raise argparse.ArgumentTypeError(f"no part {unknown[0]!r}; parts: {', '.join(p.name for p in PARTS)}")
    return names


def chosen(options: argparse.Namespace) -> list[Part]:
    """The parts asked for, in their order, behind the preparation of their data; the reference needs its script."""
    names = set(options.only) - set(options.skip) - (set() if options.reference else {"reference"})
    return [PREPARE, *(part for part in PARTS if part.name in names)]


def command(out: Path) -> Command:
    return lambda part, limit: [sys.executable, "-m", "gpu_parts", part.name, str(out / "job.json"), str(limit)]


def environment(wheels: Path | None, out: Path) -> dict[str, str]:
    """Of every part: our packages before others, and one cache of compiled kernels for all."""
    folders = [ROOT / "src", ROOT / "bench"]
    if wheels:
        site = out / "site"
        say(f"wheels from {wheels}: {install(wheels, site)}")
        folders.append(site)
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(out / "cache/inductor"), "TRITON_CACHE_DIR": str(out / "cache/triton")}
    inherited = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    path = os.pathsep.join([*map(str, folders), *inherited])
    return {**os.environ, **caches, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def absolute(path: Path | None) -> str:
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
