"""Record the machine, and make the shards of all benchmarks from a text or from random words."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from typing import NamedTuple

import torch

from bitgolf.commands.data import make_shards
from bitgolf.data.manifest import load_manifest
from gpu_benchmarks.harness import device
from gpu_benchmarks.job import BenchmarkJob
from gpu_benchmarks.results import ResultsWriter
from gpu_benchmarks.synthetic_text import write_random_text


class DataSize(NamedTuple):
    """Sizes of the data.

    vocab: of a tokenizer that is trained. held_out: share of the documents. documents, words, lexicon: of a random
    text; words is the mean per document.
    """

    vocab: int
    held_out: float
    documents: int
    words: int
    lexicon: int


FULL, TOY = DataSize(8192, 0.01, 12_000, 700, 20_000), DataSize(300, 0.2, 40, 60, 60)


def measure(job: BenchmarkJob, results: ResultsWriter) -> None:
    """Write the job's `machine.json`, make its shards, and write a line about them."""
    job.machine.write_text(json.dumps(machine()))
    started = time.perf_counter()
    if not job.shards:
        make(job)
    manifest = load_manifest(job.data)
    results.add(
        "data",
        source=job.shards or job.text or "random words",
        tokenizer=job.tokenizer or ("of the shards" if job.shards else "trained here"),
        vocab=manifest.vocab,
        training_tokens=manifest.train.tokens,
        validation_tokens=manifest.val.tokens,
        documents=manifest.train.documents,
        prepare_seconds=round(time.perf_counter() - started, 2),
    )


def machine() -> dict[str, object]:
    """Device and versions, as in every line of results."""
    versions = {"python": platform.python_version(), "torch": str(torch.__version__), "cuda": torch.version.cuda}
    try:
        import triton
    except ImportError:
        versions["triton"] = None
    else:
        versions["triton"] = triton.__version__
    return {"device": device().description, "versions": versions}


def make(job: BenchmarkJob) -> None:
    """Make shards in the job's folder."""
    size = TOY if job.toy else FULL
    text, tokenizer = Path(job.text), Path(job.tokenizer) if job.tokenizer else None
    if not job.text:
        counts = {"documents": size.documents, "words": size.words, "lexicon": size.lexicon}
        text = write_random_text(job.folder / "words.jsonl", **counts)
    make_shards(job.data, [text], size.vocab, tokenizer, size.held_out)
