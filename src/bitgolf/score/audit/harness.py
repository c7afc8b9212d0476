"""The harness of an audit: runs an evaluation on the text and on altered texts."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np

from bitgolf.errors import BitgolfError
from bitgolf.score.audit.evaluation import (
    Bools,
    ClaimedScore,
    DataView,
    Evaluation,
    EvaluationTokenizer,
    Ints,
    TextRead,
)
from bitgolf.score.audit.findings import AuditFinding, error
from bitgolf.score.text import TokenizedText, append_final_bos

T = TypeVar("T")


class AuditBudget(NamedTuple):
    """Size of an audit: numbers of runs, tolerances in bits, and the time limit of a run in seconds.

    cuts: positions after which the text is altered. A leak at a share f of the positions escapes m cuts with
    probability (1 - f)^m. documents: how many are replaced to test isolation. layouts: how many times the lengths of
    later documents are redrawn.
    normalization_targets: targets at which the probabilities of all tokens, at most `candidates`, are summed.
    tolerance: maximum change of a target's bits if the shape of the text stays the same. shape_tolerance: maximum mean
    change if it does not, as other shapes round differently. Both are far below what a cheat would have to gain.
    timeout: seconds per run.
    """

    cuts: int = 6
    documents: int = 3
    layouts: int = 2
    normalization_targets: int = 2
    candidates: int = 512
    tolerance: float = 1e-6
    shape_tolerance: float = 1e-3
    timeout: float = 600.0


class EvaluationRun(NamedTuple):
    """The score that an evaluation reported, and its reads of the validation text."""

    claim: ClaimedScore
    reads: list[TextRead]


class AuditStopped(Exception):
    """The audit cannot continue, for the reason in `finding`."""

    def __init__(self, finding: AuditFinding) -> None:
        self.finding = finding
        super().__init__(finding.message)


class AuditHarness:
    """The text in the tokens of an evaluation, and runs of the evaluation. `seed` determines all random choices.

    documents: raw, at least two, longer than the windows of the evaluation: otherwise leaks in a window and in a
    document look the same. training: raw documents that it may train on. Raises `AuditStopped` if the evaluation
    raises an error, returns an invalid score, or exceeds the time limit.
    """

    def __init__(
        self,
        make: Callable[[], Evaluation],
        documents: Sequence[bytes],
        training: Sequence[bytes],
        seed: int,
        budget: AuditBudget,
    ) -> None:
        self.make, self.documents, self.budget, self.runs = make, list(documents), budget, 0
        self._random = np.random.default_rng(seed)
        evaluation = self._call_guarded(make)
        self.isolated, self.tokenizer = bool(evaluation.isolated), evaluation.tokenizer
        self.text = self.encode(self.documents)
        self.training = self.encode(training).tokens
        occur = np.union1d(self.text.tokens, self.training)
        self.token_pool: Ints = occur[occur != self.tokenizer.bos]
        self.decoy = self.perturb(self.text.tokens, np.ones(len(self.text.tokens), bool))

    # ---- text --------------------------------------------------------------------------------------------------------

    def encode(self, documents: Sequence[bytes]) -> TokenizedText:
        """Tokenize documents with the evaluation's tokenizer. `bytes` are those of the raw documents."""
        return self._call_guarded(lambda: encode_documents(documents, self.tokenizer))

    def decode(self, ids: Ints) -> bytes:
        """Decode tokens with the evaluation's tokenizer."""
        return self._call_guarded(lambda: self.tokenizer.decode(ids))

    def random_tokens(self, size: int) -> Ints:
        """Random tokens (size,), drawn from those that occur in the texts, without BOS."""
        return self._random.choice(self.token_pool, size)

    def perturb(self, tokens: Ints, where: Bools) -> Ints:
        """Replace the tokens selected by `where` by different random tokens. BOS is never replaced or inserted."""
        shifts = self._random.integers(1, max(len(self.token_pool), 2), len(tokens))
        others = self.token_pool[(np.searchsorted(self.token_pool, tokens) + shifts) % len(self.token_pool)]
        return np.where(where & (tokens != self.tokenizer.bos), others, tokens)

    def random_lengths(self, total: int, parts: int) -> Ints:
        """Random, very unequal lengths (parts,) that sum to `total`."""
        least = min(2, total // parts)
        return least + self._random.multinomial(total - least * parts, self._random.dirichlet(np.full(parts, 0.3)))

    def choice(self, among: Sequence[T], count: int) -> list[T]:
        """A random sample of at most `count` elements, in their order."""
        chosen = self._random.choice(len(among), min(count, len(among)), replace=False)
        return [among[i] for i in sorted(chosen.tolist())]

    def randint(self, low: int, high: int) -> int:
        """A random number from low to high - 1."""
        return int(self._random.integers(low, max(high, low + 1)))

    @cached_property
    def document_of(self) -> Ints:
        """The index of each target's document, (targets,)."""
        lengths = [stop - start for start, stop in self.text.documents()]
        return np.repeat(np.arange(len(lengths)), lengths)

    # ---- runs --------------------------------------------------------------------------------------------------------

    @cached_property
    def baseline(self) -> EvaluationRun:
        """The run that others are compared with: it sees the text only when it scores it."""
        return self.run(self.text.tokens)

    def run(
        self,
        tokens: Ints,
        *,
        build: Ints | None = None,
        warm_up: Ints | None = None,
        distribution_targets: Collection[int] = (),
        raw_bytes: int = 0,
    ) -> EvaluationRun:
        """Create the evaluation anew and run it on validation tokens.

        build, warm_up: validation tokens of these phases, by default a decoy. raw_bytes: of the documents, if not those
        of the text.
        """
        self.runs += 1
        tokens_by_phase = {
            "build": self.decoy if build is None else build,
            "warm-up": self.decoy if warm_up is None else warm_up,
            "scoring": tokens,
        }
        log: list[TextRead] = []

        def view(phase: str) -> DataView:
            return DataView(
                phase,
                tokens_by_phase[phase],
                self.training,
                raw_bytes or self.text.bytes,
                frozenset(distribution_targets),
                log,
            )

        def evaluate() -> ClaimedScore:
            evaluation = self.make()
            evaluation.build(view("build"))
            evaluation.warm_up(view("warm-up"))
            return validate_claim(evaluation.evaluate(view("scoring")), len(tokens) - 1)

        return EvaluationRun(self._call_guarded(evaluate), log)

    def _call_guarded(self, work: Callable[[], T]) -> T:
        """Call third-party code in a thread. An error or a timeout raises `AuditStopped` with a finding.

        A thread that hangs cannot be stopped; it ends with the process.
        """
        results: list[T] = []
        failures: list[BaseException] = []

        def run() -> None:
            try:
                results.append(work())
            except BaseException as failure:  # third-party code may raise anything, even `SystemExit`
                failures.append(failure)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self.budget.timeout)
        if failures:
            failure = failures[0]
            raise AuditStopped(error("evaluation-error", f"{type(failure).__name__}: {failure}")) from failure
        if not results:
            raise AuditStopped(error("timeout", f"{self.budget.timeout:g} s", seconds=self.budget.timeout))
        return results[0]


def encode_documents(documents: Sequence[bytes], tokenizer: EvaluationTokenizer) -> TokenizedText:
    """Tokenize documents like `score.text.tokenize_documents`, without the check that the tokenizer is lossless."""
    pieces = [np.append(tokenizer.bos, np.asarray(tokenizer.encode(document), np.int64)) for document in documents]
    return TokenizedText(
        append_final_bos(np.concatenate(pieces), tokenizer.bos), sum(map(len, documents)), tokenizer.bos
    )


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
    if claim.bytes <= 0:
        raise BitgolfError(f"bytes must be positive, got {claim.bytes}")
    return claim
