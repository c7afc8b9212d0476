"""Runs of an evaluation: a score of a text, with other texts in the phases before scoring."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from bitgolf.errors import BitgolfError
from bitgolf.score.audit.evaluation import ClaimedScore, DataView, Evaluation, Ints, TextRead
from bitgolf.score.audit.findings import AuditFinding, error

T = TypeVar("T")


class EvaluationFacts(NamedTuple):
    """What an evaluation declares: whether documents are isolated, the size of the vocabulary, and the BOS token."""

    isolated: bool
    vocab: int
    bos: int


class EvaluationRequest(NamedTuple):
    """Tokens of the validation text in each phase, training tokens, and bytes of the raw validation text.

    distribution_targets: targets whose distribution is asked for.
    """

    build: Ints
    warm_up: Ints
    scoring: Ints
    training: Ints
    bytes: int
    distribution_targets: frozenset[int] = frozenset()


class EvaluationRun(NamedTuple):
    """The score that an evaluation reported, and its reads of the validation text."""

    claim: ClaimedScore
    reads: list[TextRead]


class AuditStopped(Exception):
    """The audit cannot continue, for the reason in `finding`."""

    def __init__(self, finding: AuditFinding) -> None:
        self.finding = finding
        super().__init__(finding.message)


class EvaluationRunner(Protocol):
    """Access to an evaluation. Each call raises `AuditStopped` if the evaluation fails or exceeds its time limit."""

    def facts(self) -> EvaluationFacts: ...

    def encode(self, documents: Sequence[bytes], /) -> list[Ints]:
        """Tokens of each document."""
        ...

    def decode(self, documents: Sequence[Ints], /) -> list[bytes]:
        """Bytes of each document, from a tokenizer that was created anew and has encoded nothing."""
        ...

    def run(self, request: EvaluationRequest, /) -> EvaluationRun:
        """Create the evaluation anew and run it."""
        ...

    def close(self) -> None: ...


class LocalRunner:
    """Runs an evaluation in a thread of this process: if it ends the process, the audit ends too."""

    def __init__(self, make: Callable[[], Evaluation], timeout: float) -> None:
        self.make, self.timeout = make, timeout
        self._encoder = None

    def facts(self) -> EvaluationFacts:
        return self._call(lambda: facts_of(self.make()))

    def encode(self, documents: Sequence[bytes], /) -> list[Ints]:
        def work() -> list[Ints]:
            self._encoder = self._encoder or self.make().tokenizer
            return [np.asarray(self._encoder.encode(document), np.int64) for document in documents]

        return self._call(work)

    def decode(self, documents: Sequence[Ints], /) -> list[bytes]:
        return self._call(lambda: decode_anew(self.make, documents))

    def run(self, request: EvaluationRequest, /) -> EvaluationRun:
        return self._call(lambda: run_evaluation(self.make, request))

    def close(self) -> None:
        pass

    def _call(self, work: Callable[[], T]) -> T:
        """Call third-party code in a thread. A thread that hangs cannot be stopped; it ends with the process."""
        results: list[T] = []
        failures: list[BaseException] = []

        def run() -> None:
            try:
                results.append(work())
            except BaseException as failure:  # third-party code may raise anything, even `SystemExit`
                failures.append(failure)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self.timeout)
        if failures:
            raise AuditStopped(failure_finding(failures[0])) from failures[0]
        if not results:
            raise AuditStopped(timeout_finding(self.timeout))
        return results[0]


def facts_of(evaluation: Evaluation) -> EvaluationFacts:
    """What an evaluation declares."""
    tokenizer = evaluation.tokenizer
    return EvaluationFacts(bool(evaluation.isolated), int(tokenizer.vocab), int(tokenizer.bos))


def decode_anew(make: Callable[[], Evaluation], documents: Sequence[Ints]) -> list[bytes]:
    """Decode documents with a new tokenizer."""
    tokenizer = make().tokenizer
    return [bytes(tokenizer.decode(ids)) for ids in documents]


def run_evaluation(
    make: Callable[[], Evaluation], request: EvaluationRequest, scoring: Callable[[], Ints] | None = None
) -> EvaluationRun:
    """Create an evaluation and run its phases. scoring: supplies the text to score after the warm-up."""
    log: list[TextRead] = []

    def view(phase: str, tokens: Ints) -> DataView:
        return DataView(phase, tokens, request.training, request.bytes, request.distribution_targets, log)

    evaluation = make()
    evaluation.build(view("build", request.build))
    evaluation.warm_up(view("warm-up", request.warm_up))
    tokens = scoring() if scoring else request.scoring
    return EvaluationRun(validate_claim(evaluation.evaluate(view("scoring", tokens)), len(tokens) - 1), log)


def failure_finding(failure: BaseException) -> AuditFinding:
    """The finding about an error of the evaluation."""
    return error("evaluation-error", f"{type(failure).__name__}: {failure}")


def timeout_finding(seconds: float) -> AuditFinding:
    """The finding about a call that took too long."""
    return error("timeout", f"{seconds:g} s", seconds=seconds)


def validate_claim(claim: ClaimedScore, targets: int) -> ClaimedScore:
    """Check the reported score of a text with `targets` targets. Raises `BitgolfError` if it is malformed."""
    positions, bits = claim.positions, claim.bits
    if positions.ndim != 1 or positions.shape != bits.shape or not len(bits) or positions.dtype.kind not in "iu":
        shapes = f"positions {positions.shape} of {positions.dtype}, bits {bits.shape}"
        raise BitgolfError(f"expected integer positions (n,) and bits (n,) with n > 0, got {shapes}")
    if positions.min() < 0 or positions.max() >= targets:
        raise BitgolfError(f"positions must be from 0 to {targets - 1}, got {positions.min()} to {positions.max()}")
    if not (np.isfinite(bits).all() and math.isfinite(claim.side_bits) and claim.side_bits >= 0):
        count = int((~np.isfinite(bits)).sum())
        cause = "bits must be finite and side_bits finite and not negative"
        raise BitgolfError(f"{cause}, got {count} bits that are not finite and side_bits {claim.side_bits}")
    if claim.bytes < 0:  # 0 in a text of tokens that the evaluation counts as none
        raise BitgolfError(f"bytes must not be negative, got {claim.bytes}")
    for target, own in claim.distributions.items():
        if np.isnan(own).any() or own.ndim != 1:
            raise BitgolfError(f"a distribution must be the bits of each token (vocab,), got {own.shape} at {target}")
    return claim
