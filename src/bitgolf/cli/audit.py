"""The command `audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.cli.artifacts import MethodNames, MethodSettings
from bitgolf.cli.code_options import accepts_code
from bitgolf.cli.completion import complete_artifact
from bitgolf.cli.options import (
    LARGEST_SEED,
    DeviceOption,
    JsonFlag,
    KeyOption,
    SkipNullFlag,
    StrictFlag,
    TextOption,
    at_most,
    count_option,
    print_result,
    recipe_or_newest_run,
)
from bitgolf.text.read_report import ReadOptions

AuditTarget = Annotated[
    str,
    typer.Argument(
        metavar="ARTIFACT|MODULE:CLASS",
        autocompletion=complete_artifact,
        callback=recipe_or_newest_run,
        help="A packed model, the folder of its run, or latest; or a foreign evaluation: MODULE:CLASS or FILE.py:CLASS, "
        "described in docs/auditing.md.",
    ),
]
TrainingOption = Annotated[
    list[Path],
    typer.Option(
        "--training",
        metavar="PATH",
        help="Text that the evaluation may train on, read like --text. Default: what follows in --text. May be repeated.",
    ),
]
BytesOption = Annotated[
    int,
    count_option("--bytes", "Bytes of the text to audit on, in whole documents from its start; 0 means all."),
]
ConfidenceOption = Annotated[
    float,
    typer.Option(
        "--confidence",
        metavar="P",
        help="Probability with which a cheat at --share of the text is found. Sets the depth.",
    ),
]
ShareOption = Annotated[
    float, typer.Option("--share", metavar="F", help="Share of the targets, or documents, that a cheat must affect.")
]
AuditSeed = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, callback=at_most(LARGEST_SEED), help="Seed of all random choices.")
]
SummedOption = Annotated[
    int,
    count_option(
        "--sums",
        "Of an evaluation that reports no distributions: maximum number of targets at which every token is tried. "
        "0 means as many as the confidence requires.",
    ),
]
CandidatesOption = Annotated[
    int,
    count_option("--candidates", "Tokens that are tried there, the most frequent ones; 0 means all."),
]
ShapeToleranceOption = Annotated[
    float,
    typer.Option(
        "--shape-tolerance",
        metavar="BITS",
        help="Maximum mean change of a document's bits when other documents get other lengths; more for bfloat16.",
    ),
]
TimeoutOption = Annotated[float, typer.Option("--timeout", metavar="S", help="Time limit of each run in seconds.")]
MemoryOption = Annotated[
    float, typer.Option("--memory", metavar="GB", help="Memory limit of a foreign evaluation; 0 means none.")
]
SubmittedOption = Annotated[
    Path | None,
    typer.Option(
        "--artifact",
        metavar="FILE",
        help="What a foreign evaluation submits: its size is set against text that seems to be stored in it.",
    ),
]


@accepts_code
def audit(
    target: AuditTarget,
    text: TextOption = [],  # noqa: B006
    training: TrainingOption = [],  # noqa: B006
    key: KeyOption = "",
    skip_null: SkipNullFlag = False,
    strict: StrictFlag = False,
    size: BytesOption = 16_384,
    methods: MethodNames = [],  # noqa: B006
    sets: MethodSettings = [],  # noqa: B006
    confidence: ConfidenceOption = 0.95,
    share: ShareOption = 0.1,
    seed: AuditSeed = 0,
    sums: SummedOption = 0,
    candidates: CandidatesOption = 512,
    shape_tolerance: ShapeToleranceOption = 1e-3,
    timeout: TimeoutOption = 600.0,
    memory: MemoryOption = 0.0,
    submitted: SubmittedOption = None,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Audit a score by repeating it on altered text: later tokens, other documents, other lengths, other targets.

    A foreign evaluation runs in a process of its own, without network and without the text's files where the system
    allows it. The exit status is 1 if an error is found.
    """
    from bitgolf.commands.audit import AuditTexts, audit_target
    from bitgolf.commands.audit_table import audit_table
    from bitgolf.score.audit.budget import AuditBudget

    reading, budget = ReadOptions(key, skip_null, strict), AuditBudget(confidence=confidence, share=share)
    budget = budget._replace(
        summed_targets=sums, candidates=candidates, shape_tolerance=shape_tolerance, timeout=timeout
    )
    texts, own = AuditTexts(text, training, reading, size), {"methods": methods, "edits": sets, "device": device}
    result = audit_target(target, texts, budget, seed=seed, memory_gb=memory, artifact=submitted, **own)
    print_result(as_json, result, audit_table(result))
    if not result.passes:
        raise typer.Exit(1)
