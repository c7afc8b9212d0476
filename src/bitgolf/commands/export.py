"""`bitgolf export`: a record folder of the challenge from the runs of a recipe, one for each seed."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bitgolf.commands.record import TEXT_KEY, ComparedScores, read_runs
from bitgolf.commands.record_texts import SeedResult, readme, requirements_file, seed_log
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.export.script import Script, recipe_script
from bitgolf.files import write_bytes, write_json
from bitgolf.pipeline.code_size import no_script_because
from bitgolf.pipeline.compression import ArtifactSizes
from bitgolf.pipeline.reporting import read_result
from bitgolf.pipeline.result import RunResult
from bitgolf.pipeline.state import Run, open_run
from bitgolf.report.log import LINES_FILE, RunLog
from bitgolf.score.result import MethodResult
from bitgolf.submission.rules.sizes import CAP
from bitgolf.tokens.loading import load_tokenizer

SCRIPT, READABLE = "train_gpt.py", "readable.py"


class ExportOptions(NamedTuple):
    """What only the author knows. name: of the submission, "" for that of the recipe. blurb: one sentence about it."""

    author: str = ""
    github_id: str = ""
    name: str = ""
    blurb: str = ""


class ExportResult(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `export --json`.

    folder: the record folder; files: names of its files. method: of the scores. val_bpb: mean over the seeds.
    bytes_code: size of the script as it is executed. bytes_total: of script and artifact, of the largest seed.
    """

    folder: str
    files: list[str]
    recipe: str
    hash: str
    seeds: list[int]
    method: str
    val_bpb: float
    bytes_code: int
    bytes_total: int
    cap: int
    warnings: list[str]


def export_runs(folders: Sequence[Path], target: Path, options: ExportOptions) -> ExportResult:
    """Write the record folder `target` from finished runs of one recipe.

    Raises `UsageError` if `target` has files, or the runs differ in recipe, text or scoring, or cannot be exported,
    and `BitgolfError` if script and artifact are over the cap. Nothing is left then.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError("there are files already", where=str(target), hint="name a folder that does not exist")
    runs = [open_run(folder, RunLog(quiet=True)) for folder in folders]
    scores = read_runs(folders, "")
    results = [read_result(run) for run in runs]
    _check(runs, results)
    kind = load_tokenizer(runs[0].data_folder / "tokenizer.model").kind
    script = recipe_script(runs[0].recipe, kind)
    seeds = [_seed_result(result, script) for result in results]
    cap = _cap(results[0].bytes)
    _check_sizes(seeds, script, cap)
    claims = _claims(runs[0], seeds, script, scores, options)
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        _write(made, script, runs, seeds, claims)
        made.chmod(0o755)
        made.replace(target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return ExportResult(
        folder=str(target),
        files=sorted(path.name for path in target.iterdir()),
        recipe=results[0].recipe,
        hash=results[0].hash,
        seeds=[seed.seed for seed in seeds],
        method=seeds[0].method,
        val_bpb=claims["val_bpb"],
        bytes_code=script.bytes,
        bytes_total=claims["bytes_total"],
        cap=cap,
        warnings=list(_warnings(results)),
    )


def _check(runs: Sequence[Run], results: Sequence[RunResult]) -> None:
    first = results[0]
    for run, result in zip(runs, results, strict=True):
        where = str(run.folder)
        if result.hash != first.hash:
            message = f"another recipe ({result.hash}) than that of {first.run} ({first.hash})"
            raise UsageError(message, where=where, hint="export runs of one recipe, one for each seed")
        if reason := no_script_because(run.recipe):
            raise UsageError(reason, where=where, hint="add the parts to the package, or submit the code by hand")
        if not result.methods or (result.scored and result.scored.share < 1):
            hint = f"`bitgolf run {run.folder} --score-tokens all` scores the rest"
            raise UsageError("a record needs the score of the whole held-out text", where=where, hint=hint)
    if len({result.bytes.cap for result in results}) > 1:
        raise UsageError("the runs have different caps", where=str(runs[0].folder), hint="use one --set pack.cap")


def _cap(sizes: ArtifactSizes) -> int:
    """The cap of script and artifact together: the recipe's, or the challenge's if the recipe's is of the model alone."""
    return sizes.cap if sizes.counted == "model+code" else CAP


def _check_sizes(seeds: Sequence[SeedResult], script: Script, cap: int) -> None:
    largest = max(seeds, key=lambda seed: seed.total)
    if largest.total > cap:
        message = (
            f"seed {largest.seed}: script and artifact have {script.bytes:,} + {largest.model:,} bytes,"
            f" {largest.total - cap:,} over the cap of {cap:,}"
        )
        hint = "`bitgolf run RUN --set pack.counted=model+code --from pack` says what to make smaller"
        raise BitgolfError(message, where="pack.cap", hint=hint)


def _seed_result(result: RunResult, script: Script) -> SeedResult:
    best: MethodResult = min(result.methods, key=lambda scored: scored.bpb)
    return SeedResult(
        seed=result.seed,
        method=best.method,
        loss=best.bits * math.log(2) / best.targets,
        bpb=best.bpb,
        model=result.bytes.model,
        code=script.bytes,
        steps=result.steps,
        training_seconds=result.training_clock.total,
        scoring_seconds=best.seconds,
        result=result,
    )


def _claims(
    run: Run, seeds: Sequence[SeedResult], script: Script, scores: ComparedScores, options: ExportOptions
) -> dict[str, Any]:
    """The contents of submission.json."""
    count, deviation = len(seeds), 0.0
    mean, loss = sum(s.bpb for s in seeds) / count, sum(s.loss for s in seeds) / count
    if count > 1:
        deviation = math.sqrt(sum((s.bpb - mean) ** 2 for s in seeds) / (count - 1))
    recipe = run.recipe()
    return {
        "author": options.author,
        "github_id": options.github_id,
        "name": options.name or recipe.name,
        "blurb": options.blurb or f"The recipe {recipe.name}, scored with {seeds[0].method}.",
        "date": datetime.now(UTC).date().isoformat(),
        "val_loss": round(loss, 8),
        "val_bpb": round(mean, 8),
        "val_bpb_std": round(deviation, 8),
        "bytes_total": max(s.total for s in seeds),
        "bytes_code": script.bytes,
        "seeds": [s.seed for s in seeds],
        "seed_results": {str(s.seed): s.to_json() for s in seeds},
        "hardware": seeds[0].result.device,
        "recipe_hash": seeds[0].result.hash,
        TEXT_KEY: scores.text,
    }


def _write(
    folder: Path, script: Script, runs: Sequence[Run], seeds: Sequence[SeedResult], claims: dict[str, Any]
) -> None:
    write_bytes(folder / SCRIPT, script.packed.encode())
    write_bytes(folder / READABLE, script.readable.encode())
    write_bytes(folder / "requirements.txt", requirements_file(script.packages).encode())
    write_json(folder / "submission.json", claims)
    write_bytes(folder / "README.md", readme(runs[0].recipe, seeds, claims).encode())
    for run, seed in zip(runs, seeds, strict=True):
        lines = (run.folder / LINES_FILE).read_text(encoding="utf-8", errors="replace")
        write_bytes(folder / f"train_seed{seed.seed}.log", seed_log(seed, lines).encode())


def _warnings(results: Sequence[RunResult]) -> list[str]:
    found = [result.quick_note for result in results[:1] if result.quick]
    if len(results) < 3:
        found.append(f"the challenge asks for 3 seeds, this folder has {len(results)}")
    return found


def export_lines(result: ExportResult) -> str:
    """Return the result as text."""
    size = f"{result.bytes_total:,} / {result.cap:,} bytes, {result.bytes_code:,} of them the script"
    lines = [
        f"{result.folder}: {result.recipe}, seeds {', '.join(map(str, result.seeds))}",
        f"val_bpb {result.val_bpb:.5f} ({result.method}); {size}",
        f"files: {', '.join(result.files)}",
        *(f"warning: {warning}" for warning in result.warnings),
        f"try: bitgolf check {result.folder}",
    ]
    return "\n".join(lines)
