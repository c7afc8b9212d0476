"""The texts of a record folder that `export` writes: README, requirements, and a log for each seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NamedTuple

from bitgolf.config.spec import Spec
from bitgolf.pipeline.result import RunResult
from bitgolf.recipes.recipe import Recipe

OPTIONAL = {"triton"}
"""Packages that a script imports only on a GPU, where PyTorch brings them."""
WRAPPER = {"brotli"}
"""Packages that the packed form of a script needs."""


class SeedResult(NamedTuple):
    """The result of one seed. loss: nats per token. model, code: bytes of the artifact and of the script."""

    seed: int
    method: str
    loss: float
    bpb: float
    model: int
    code: int
    steps: int
    training_seconds: float
    scoring_seconds: float
    result: RunResult

    @property
    def total(self) -> int:
        """Bytes that count against the cap."""
        return self.model + self.code

    def to_json(self) -> dict[str, Any]:
        """The entry of submission.json."""
        return {
            "val_loss": round(self.loss, 8),
            "val_bpb": round(self.bpb, 8),
            "artifact_bytes": self.total,
            "bytes_model": self.model,
            "steps": self.steps,
            "train_time_s": round(self.training_seconds, 2),
            "eval_time_s": round(self.scoring_seconds, 2),
        }


def requirements_file(packages: Sequence[str]) -> str:
    """Return requirements.txt: the packages with the versions that are installed here."""
    named = sorted({*packages, *WRAPPER} - OPTIONAL)
    return "".join(f"{name}=={metadata.version(name).partition('+')[0]}\n" for name in named)


def seed_log(seed: SeedResult, lines: str) -> str:
    """Return the log of a seed: that of its run without file paths, then its figures in the challenge's words."""
    result = seed.result
    milliseconds = seed.training_seconds * 1000
    figures = [
        f"step:{seed.steps}/{seed.steps} train_time:{milliseconds:.0f}ms step_avg:{milliseconds / max(seed.steps, 1):.2f}ms",
        f"Code size: {seed.code} bytes",
        f"Total submission size packed: {seed.total} bytes",
    ]
    for method in result.methods:
        loss = method.bits * 0.6931471805599453 / method.targets
        figures.append(
            f"final_quantized_{method.method} val_loss:{loss:.8f} val_bpb:{method.bpb:.8f}"
            f" eval_time:{method.seconds * 1000:.0f}ms"
        )
    clean = re.sub(r"(?<![\w.])/(?:[\w.@+-]+/)+", "", lines)
    return "\n".join([f"seed: {seed.seed}", f"device: {result.device}", clean.rstrip("\n"), *figures, ""])


RUNNING = """\
## Running it

```
pip install -r requirements.txt
DATA_PATH=folder/of/shards TOKENIZER_PATH=tokenizer.model SEED={seed} torchrun --standalone --nproc_per_node=8 train_gpt.py
```

`python train_gpt.py` runs it in one process. It trains, calibrates, quantizes, packs and scores, and writes log, weights and artifact to `runs/RUN_ID`. `ITERATIONS` and `MAX_WALLCLOCK_SECONDS` replace the limits of training (0: no limit). `train_gpt.py` is the packed form, whose size counts; `readable.py` is the same code with a heading for each module, and runs in the same way.
"""


def readme(recipe: Spec[Recipe], seeds: Sequence[SeedResult], claims: dict[str, Any]) -> str:
    """Return README.md: the results, what was switched on, and how to run the script."""
    rows = [
        f"| {s.seed} | {s.bpb:.8f} | {s.loss:.8f} | {s.steps:,} | {s.training_seconds:.1f} | {s.scoring_seconds:.1f} |"
        f" {s.total:,} |"
        for s in seeds
    ]
    usage = [f"| {row.part} | {row.tensors} | {row.parameters:,} | {row.calls} |" for row in seeds[0].result.part_usage]
    return "\n".join(
        [
            f"# {claims['name']}",
            "",
            claims["blurb"],
            "",
            f"val_bpb {claims['val_bpb']:.5f} (mean of {len(seeds)} seed(s), standard deviation"
            f" {claims['val_bpb_std']:.5f}), scored with `{seeds[0].method}` on the artifact as read from disk;"
            f" {claims['bytes_total']:,} bytes with the script, for the largest seed.",
            "",
            "| seed | val_bpb | val_loss (nats per token) | steps | training (s) | scoring (s) | bytes |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
            "## What was switched on",
            "",
            "| part | tensors | parameters | calls in a forward pass |",
            "| --- | --- | --- | --- |",
            *usage,
            "",
            "The recipe, without settings that have their default:",
            "",
            "```",
            repr(recipe.replace(published=None)),
            "```",
            "",
            RUNNING.format(seed=seeds[0].seed),
        ]
    )
