"""Speed and memory of `bitgolf data make`, by size of the text, type of tokenizer and number of processes.

Usage: `python bench/data_make.py [--megabytes 10 100 2000] [--kinds bytes sentencepiece caseops] [--processes 1 2]
[--format jsonl|txt] [--results FILE]`. Appends one line per measurement to `results/data.jsonl`.

The text is generated: words with Zipf's law of frequency from 50,000 random ones, in documents of about 2,500 bytes, the
same for every size. `data make` trains a tokenizer of 1,024 pieces, or reads one from `--tokenizer`. Rates are bytes of text by wall time of the whole command, start included. Peak memory is the sum
over all processes of the largest resident set of each, from Linux's /proc.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from result_lines import append_line

from bitgolf.report.environment import collect_environment

WORDS, DOCUMENT_WORDS, BLOCK_DOCUMENTS = 50_000, 420, 400
RESULTS = Path(__file__).parents[1] / "results" / "data.jsonl"


def write_text(path: Path, megabytes: int, format: str) -> int:
    """Write at least this many million bytes of text as jsonl or txt; return the bytes of text."""
    random = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    weights = 1 / np.arange(2, len(letters) + 2)
    words = ["".join(random.choice(letters, random.integers(2, 10), p=weights / weights.sum())) for _ in range(WORDS)]
    words = [word.capitalize() if i % 9 == 0 else word for i, word in enumerate(words)]
    frequency = 1 / np.arange(1, WORDS + 1)
    edges, size = np.cumsum(frequency / frequency.sum()), 0
    with path.open("w") as file:
        while size < megabytes * 10**6:
            chosen = np.searchsorted(edges, random.random((BLOCK_DOCUMENTS, DOCUMENT_WORDS)))
            for row in np.minimum(chosen, WORDS - 1).tolist():
                text = " ".join([words[i] for i in row]) + ".\n"
                size += len(text)
                file.write(json.dumps({"text": text}) + "\n" if format == "jsonl" else text + "\n")
    return size


def run_measured(command: list[str]) -> tuple[float, float]:
    """Run a command; return (seconds, peak memory of its processes in MB)."""
    started, peaks = time.perf_counter(), dict[int, int]()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        while process.poll() is None:
            for pid in _tree(process.pid):
                peaks[pid] = _peak_kilobytes(pid) or peaks.get(pid, 0)
            time.sleep(0.05)
        seconds = time.perf_counter() - started
        if process.returncode:
            errors.seek(0)
            sys.exit(errors.read().decode())
    return seconds, sum(peaks.values()) / 1000


def _tree(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(inner for child in children for inner in _tree(int(child)))]


def _peak_kilobytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def measure(text: Path, size: int, kind: str, processes: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run `data make` once and return its line of results."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bitgolf", "data", "make", f"{folder}/data", "--text", str(text)]
        command += ["--processes", str(processes)]
        given = options.tokenizer if kind != "bytes" else None
        command += ["--tokenizer", str(given)] if given else ["--kind", kind]
        seconds, peak = run_measured(command)
    return {
        "bench": "data_make",
        "kind": kind,
        "tokenizer": given.name if given else "",
        "format": options.format,
        "bytes": size,
        "processes": processes,
        "seconds": round(seconds, 2),
        "megabytes_per_second": round(size / seconds / 1e6, 2),
        "megabytes_per_second_per_process": round(size / seconds / processes / 1e6, 2),
        "peak_memory_megabytes": round(peak),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", nargs="+", type=int, default=[10, 100, 2000])
    parser.add_argument("--kinds", nargs="+", default=["bytes", "sentencepiece", "caseops"])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--format", choices=["jsonl", "txt"], default="jsonl")
    parser.add_argument("--tokenizer", type=Path, help="file to use for other kinds than bytes")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    environment = collect_environment()
    with tempfile.TemporaryDirectory() as folder:
        for megabytes in options.megabytes:
            text = Path(folder, f"text.{options.format}")
            size = write_text(text, megabytes, options.format)
            for kind in options.kinds:
                for processes in options.processes:
                    line = measure(text, size, kind, processes, options) | {"environment": environment}
                    append_line(options.results, line)
                    print(json.dumps({name: value for name, value in line.items() if name != "environment"}))


if __name__ == "__main__":
    main()
