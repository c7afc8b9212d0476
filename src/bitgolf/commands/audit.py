"""`bitgolf audit`: audit an artifact's scoring methods, or a foreign evaluation in a process of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bitgolf.commands.artifacts import find_artifact
from bitgolf.errors import UsageError
from bitgolf.files import require_file
from bitgolf.report.display import current_display
from bitgolf.report.progress import Progress, duration
from bitgolf.score.audit.audit import AuditObserver, AuditReport, audit_evaluation
from bitgolf.score.audit.budget import AuditBudget, CheckCoverage
from bitgolf.score.audit.evaluation import Evaluation
from bitgolf.score.audit.plan import AuditPlan
from bitgolf.score.audit.process_runner import ProcessRunner
from bitgolf.score.audit.runner import EvaluationRunner
from bitgolf.text.documents import read_documents
from bitgolf.text.read_report import DEFAULT_OPTIONS, ReadOptions

LEAST_DOCUMENTS, TRAINING_FACTOR = 3, 4
_Auditable = Callable[[], Evaluation] | EvaluationRunner
LONGEST_TIMEOUT, LARGEST_MEMORY = 1e7, 1e6


class AuditTexts(NamedTuple):
    """Paths of the text to audit on and of training text; `bytes` of the former are used, 0 for all.

    Without training text, documents that follow in the text are used.
    """

    text: Sequence[Path]
    training: Sequence[Path] = ()
    reading: ReadOptions = DEFAULT_OPTIONS
    bytes: int = 16_384


class AuditFindingRow(msgspec.Struct, frozen=True):
    """A finding. evidence: its figures; None for those that are not finite."""

    rule: str
    severity: str
    message: str
    evidence: dict[str, float | None]


class AuditCheckRow(msgspec.Struct, frozen=True):
    """How thorough a check was: see `CheckCoverage`."""

    check: str
    asked: int
    units: str
    runs: int
    escape: float


class AuditedEvaluation(msgspec.Struct, frozen=True):
    """The audit of one method of an artifact, or of a foreign evaluation.

    bpb: bits per byte as reported, None if it did not complete. missing_limits: "network", "files" and "memory" with
    the reason why a foreign evaluation is not limited; None for a method of this library.
    """

    name: str
    verdict: str
    bpb: float | None
    runs: int
    seconds: float
    findings: list[AuditFindingRow]
    checks: list[AuditCheckRow]
    missing_limits: dict[str, str] | None = None


class AuditResult(msgspec.Struct, frozen=True):
    """The keys of `audit --json`. passes: whether no error was found in any of the audits."""

    passes: bool
    confidence: float
    share: float
    documents: int
    bytes: int
    audits: list[AuditedEvaluation]


class _ShownAudit(AuditObserver):
    """Shows what an audit will cost, and its progress."""

    def __init__(self, name: str) -> None:
        self.name, self.check, self.total, self.started = name, "first runs", 0, time.perf_counter()

    def planned(self, plan: AuditPlan, seconds: float) -> None:
        self.total = plan.runs
        asked = ", ".join(f"{c.check} {c.asked} in {c.runs:,} runs" for c in plan.checks if c.asked)
        cost = f"{plan.runs:,} runs of {seconds:.2g} s, about {duration(plan.runs * seconds)}"
        current_display().message(f"{self.name}: {cost}; questions: {asked}")

    def checking(self, check: str) -> None:
        self.check = check

    def ran(self, runs: int) -> None:
        share = min(runs / self.total, 1.0) if self.total else None
        spent = time.perf_counter() - self.started
        left = spent * (1 / share - 1) if share else None
        current_display().progress(Progress(f"audit {self.name}", share, left, (self.check, f"{runs:,} runs")))


def audit_target(
    target: str,
    texts: AuditTexts,
    budget: AuditBudget,
    *,
    seed: int = 0,
    methods: Sequence[str] = (),
    edits: Sequence[str] = (),
    device: str = "auto",
    memory_gb: float = 0.0,
    artifact: Path | None = None,
) -> AuditResult:
    """Audit an artifact, or an evaluation given as MODULE:CLASS or FILE.py:CLASS.

    methods, edits, device: of an artifact, as for `score_artifact`. memory_gb: limit of a foreign evaluation, 0 for none.
    artifact: what a foreign evaluation submits; its size is set against the bytes of text that seem to be stored.
    Raises `UsageError` for options that have no effect, limits out of range, and texts with too few documents.
    """
    foreign = is_foreign(target)
    _check_options(target, foreign, budget, methods, memory_gb, artifact)
    if foreign:
        size = _size(artifact) if artifact else None
        hidden = _hidden(target, texts)
        runner = ProcessRunner(target, timeout=budget.timeout, memory=int(memory_gb * 1e9), hidden=hidden)
        evaluations: dict[str, _Auditable] = {target: runner}
    else:
        path, evaluations = own_evaluations(Path(target), methods, edits, device)
        size = _size(path)
    documents, training = read_texts(texts)
    audits = [
        _audited(name, evaluation, documents, training, seed, budget, size) for name, evaluation in evaluations.items()
    ]
    passes = all(audit.verdict == "passes" for audit in audits)
    return AuditResult(passes, budget.confidence, budget.share, len(documents), sum(map(len, documents)), audits)


def _check_options(
    target: str, foreign: bool, budget: AuditBudget, methods: Sequence[str], memory_gb: float, artifact: Path | None
) -> None:
    """Raise `UsageError` for limits out of range, and for options that have no effect."""
    _ = budget.questions
    for name, value, most in (("--timeout", budget.timeout, LONGEST_TIMEOUT), ("--memory", memory_gb, LARGEST_MEMORY)):
        if not 0 <= value <= most or (name == "--timeout" and value == 0):
            raise UsageError(f"must be above 0 and at most {most:,.0f}, got {value}", where=name)
    if not 0 <= budget.shape_tolerance < 1:
        raise UsageError(f"must be from 0 to 1 bit, got {budget.shape_tolerance}", where="--shape-tolerance")
    for name, given in (("--with", methods and foreign), ("--artifact", artifact and not foreign)):
        if given:
            raise UsageError(f"{name} has no effect for {target}", where=name, hint="leave it out")


def _size(path: Path) -> int:
    require_file(path)
    return path.stat().st_size


def is_foreign(target: str) -> bool:
    """Whether a target names a class instead of an artifact. Raises `UsageError` if its file does not exist."""
    module, colon, name = target.rpartition(":")
    if not colon or Path(target).exists():
        return False
    if not module or not name.isidentifier():
        raise UsageError("expected MODULE:CLASS or FILE.py:CLASS", where=target, hint="name a class after the colon")
    if module.endswith(".py"):
        require_file(Path(module))
    return True


def read_texts(texts: AuditTexts) -> tuple[list[bytes], list[bytes]]:
    """(documents to audit on, training documents). Raises `UsageError` if there are too few."""
    if not texts.text:
        raise UsageError("give the text to audit on", where="--text", hint="--text PATH")
    documents, training = list[bytes](), list[bytes]()
    most, rest = texts.bytes or math.inf, 0
    for document in read_documents(texts.text, texts.reading):
        if sum(map(len, documents)) < most or len(documents) < LEAST_DOCUMENTS:
            documents.append(document.data)
        elif texts.training or rest >= TRAINING_FACTOR * most:
            break
        else:
            training.append(document.data)
            rest += len(document.data)
    for document in read_documents(texts.training, texts.reading) if texts.training else ():
        training.append(document.data)
    if len(documents) < LEAST_DOCUMENTS or not training:
        cause = f"{len(documents)} documents to audit on, {len(training)} for training; an audit needs 3 and 1"
        hint = "give more documents, fewer --bytes, or --training PATH"
        raise UsageError(cause, where=", ".join(map(str, texts.text)), hint=hint)
    return documents, training


def _hidden(target: str, texts: AuditTexts) -> list[Path]:
    """The paths of the text that exist, which a foreign evaluation must not see."""
    found = [path for path in texts.text if path.exists()]
    code = Path(target.rpartition(":")[0]).resolve()
    for path in found:
        if code.is_relative_to(path.resolve()):
            hint = "move the text to a folder of its own"
            raise UsageError(
                f"the code {code.name} is in the folder of the text, which is hidden", where=str(path), hint=hint
            )
    return found


def own_evaluations(
    artifact: Path, methods: Sequence[str], edits: Sequence[str], device: str
) -> tuple[Path, dict[str, _Auditable]]:
    """The path of an artifact, and for each method a function that creates its evaluation."""
    from bitgolf.artifact.model import load_model
    from bitgolf.runtime.device import select_device
    from bitgolf.runtime.distributed import SINGLE_PROCESS
    from bitgolf.score.audit.player_evaluation import PlayerEvaluation
    from bitgolf.score.method_selection import select_methods
    from bitgolf.score.methods import ScoringMethod

    path = find_artifact(artifact)
    loaded, place = load_model(path), select_device(device_type=device)
    vocab = loaded.tokenizer.vocab

    def making(method: ScoringMethod) -> Callable[[], Evaluation]:
        return lambda: PlayerEvaluation(
            loaded.tokenizer, lambda: method.make_player(loaded.model, vocab, place, SINGLE_PROCESS), method
        )

    found = dict[str, _Auditable]()
    for spec in select_methods(loaded.recipe.score, methods, edits):
        method = spec()
        same = sum(name.split()[0] == method.name for name in found)
        found[f"{method.name} {same + 1}" if same else method.name] = making(method)
    return path, found


def _audited(
    name: str,
    evaluation: _Auditable,
    documents: Sequence[bytes],
    training: Sequence[bytes],
    seed: int,
    budget: AuditBudget,
    size: int | None,
) -> AuditedEvaluation:
    started = time.perf_counter()
    report = audit_evaluation(
        evaluation, documents, training, seed=seed, budget=budget, artifact_bytes=size, observer=_ShownAudit(name)
    )
    missing = evaluation.missing_limits if isinstance(evaluation, ProcessRunner) else None
    return as_result(name, report, time.perf_counter() - started, missing)


def as_result(
    name: str, report: AuditReport, seconds: float, missing_limits: dict[str, str] | None = None
) -> AuditedEvaluation:
    """A report as JSON has it."""
    findings = [
        AuditFindingRow(f.rule, f.severity, f.message, {key: _finite(value) for key, value in f.evidence.items()})
        for f in report.findings
    ]
    checks = [AuditCheckRow(*CheckCoverage(*check)) for check in report.checks]
    bpb = _finite(report.claimed)
    return AuditedEvaluation(name, report.verdict, bpb, report.runs, seconds, findings, checks, missing_limits)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
