"""The parts of a bundle, from the folder of a run: everything that a reviewer needs, and no path of the user's machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bitgolf.errors import UsageError
from bitgolf.files import read_json
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.pipeline.state import read_inputs

RECIPE, INPUTS, RESULT, STAGES = "recipe.json", "inputs.json", "result.json", "stages.json"
ENVIRONMENT, LOG, ARTIFACT, TOKENIZER, DATA = (
    "environment.json",
    "log.jsonl",
    "artifact.bg",
    "tokenizer.model",
    "data.json",
)
TENSORS, PROOF, RECORD = "tensors.json", "proof/", "record.json"
COMMITMENT = f"{PROOF}commitment.json"
CODE = "code/"


def collect_parts(run: Path, proof: Path | None, record: Path | None) -> dict[str, bytes]:
    """Return the parts of a finished run. proof: folder of `compress --proof`. record: output of `record --json`.

    Raises `UsageError` if the run is not finished, or the proof has no commitment.
    """
    files = RunFiles(run)
    if not files.result.exists():
        raise UsageError("the run is not finished", where=str(run), hint=f"`bitgolf run {run}` continues it")
    parts = {
        RECIPE: files.recipe.read_bytes(),
        INPUTS: _json(_inputs(run)),
        RESULT: _json(read_json(files.result) | {"run": run.resolve().name}),
        STAGES: files.stages.read_bytes(),
        ENVIRONMENT: files.environment.read_bytes(),
        LOG: files.log.read_bytes(),
        ARTIFACT: files.artifact.read_bytes(),
        TOKENIZER: (run / "data" / "tokenizer.model").read_bytes(),
        DATA: _json(read_json(run / "data" / "manifest.json") | {"shards_folder": ""}),
        TENSORS: files.tensor_reports.read_bytes(),
    }
    parts |= {CODE + path.name: path.read_bytes() for path in sorted(files.code.glob("*.py"))}
    parts |= dict(_proof_parts(proof)) if proof else {}
    return parts | ({RECORD: record.read_bytes()} if record else {})


def _inputs(run: Path) -> dict[str, Any]:
    """Return the inputs of a run, with names in place of paths."""
    inputs = read_inputs(run)
    return {
        "seed": inputs.seed,
        "text": [Path(name).name for name in inputs.text],
        "shards": Path(inputs.shards).name if inputs.shards else None,
        "score_tokens": inputs.score_tokens,
    }


def _proof_parts(folder: Path) -> Iterator[tuple[str, bytes]]:
    commitment = folder / "commitment.json"
    if not commitment.exists():
        hint = "`bitgolf compress ARTIFACT --proof FOLDER` makes one"
        raise UsageError("there is no proof in this folder", where=str(folder), hint=hint)
    for path in (commitment, *(folder / group["file"] for group in read_json(commitment)["groups"])):
        yield PROOF + path.name, path.read_bytes()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
