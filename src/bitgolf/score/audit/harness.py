"""An entry under examination: its runs on the text, on altered text, and what they have in common."""

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
    """How much an audit asks. Each number is one of runs, but for the two tolerances (bits) and the time (seconds).

    cuts: places behind which the text is altered; documents: whose replacement must move no other; layouts: redrawn
    lengths of later documents; sums: targets at which every token is tried, `candidates` at most.
    exact: no charge may move more when the shape of the text is the same; loose: nor more on the mean, when it is not:
    other shapes round otherwise. Both are far below what a cheat that pays would need. seconds: of one run.

    A leak at a share f of the places escapes m cuts with (1 - f)^m.
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
    claim: ClaimedScore
    reads: list[TextRead]


class AuditStopped(Exception):
    """The audit cannot go on: the finding says why."""

    def __init__(self, finding: AuditFinding) -> None:
        self.finding = finding
        super().__init__(finding.message)


class AuditHarness:
    """The text in the entry's own tokens, and runs of the entry. Everything drawn at random is a function of `seed`.

    documents: raw, at least two, long beside the windows of the entry (or else a window and a document are one);
    training: raw documents that the entry may train on. Raises `AuditStopped` where the entry fails.
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
        entry = self._call_guarded(make)
        self.isolated, self.tokenizer = bool(entry.isolated), entry.tokenizer
        self.text = self.encode(self.documents)
        self.training = self.encode(training).tokens
        occur = np.union1d(self.text.tokens, self.training)
        self.token_pool: Ints = occur[occur != self.tokenizer.bos]
        self.decoy = self.perturb(self.text.tokens, np.ones(len(self.text.tokens), bool))

    # ---- text --------------------------------------------------------------------------------------------------------

    def encode(self, documents: Sequence[bytes]) -> TokenizedText:
        """Documents in the entry's tokens; bytes are the raw documents'."""
        return self._call_guarded(lambda: encode_documents(documents, self.tokenizer))

    def decode(self, ids: Ints) -> bytes:
        """What the entry's tokenizer makes of its own tokens."""
        return self._call_guarded(lambda: self.tokenizer.decode(ids))

    def random_tokens(self, size: int) -> Ints:
        """Tokens drawn from those that occur, BOS apart."""
        return self._random.choice(self.token_pool, size)

    def perturb(self, tokens: Ints, where: Bools) -> Ints:
        """The tokens with others, each another than it was, where asked; documents begin where they did."""
        shifts = self._random.integers(1, max(len(self.token_pool), 2), len(tokens))
        others = self.token_pool[(np.searchsorted(self.token_pool, tokens) + shifts) % len(self.token_pool)]
        return np.where(where & (tokens != self.tokenizer.bos), others, tokens)

    def random_lengths(self, total: int, parts: int) -> Ints:
        """Very unequal sizes that sum to the total."""
        least = min(2, total // parts)
        return least + self._random.multinomial(total - least * parts, self._random.dirichlet(np.full(parts, 0.3)))

    def choice(self, among: Sequence[T], count: int) -> list[T]:
        """Some of them, in their order."""
        chosen = self._random.choice(len(among), min(count, len(among)), replace=False)
        return [among[i] for i in sorted(chosen.tolist())]

    def randint(self, low: int, high: int) -> int:
        """A number low … high - 1."""
        return int(self._random.integers(low, max(high, low + 1)))

    @cached_property
    def document_of(self) -> Ints:
        """The document of each target."""
        lengths = [stop - start for start, stop in self.text.documents()]
        return np.repeat(np.arange(len(lengths)), lengths)

    # ---- runs --------------------------------------------------------------------------------------------------------

    @cached_property
    def baseline(self) -> EvaluationRun:
        """What counterfactuals are compared with: the text is shown for the first time when it is scored."""
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
        """The entry, made anew, on these validation tokens; before scoring it is shown a decoy unless told otherwise.

        raw: bytes of the documents, where they are not those of the text.
        """
        self.runs += 1
        shown = {
            "build": self.decoy if build is None else build,
            "warm-up": self.decoy if warm_up is None else warm_up,
            "scoring": tokens,
        }
        log: list[TextRead] = []

        def sight(phase: str) -> DataView:
            return DataView(
                phase, shown[phase], self.training, raw_bytes or self.text.bytes, frozenset(distribution_targets), log
            )

        def play() -> ClaimedScore:
            entry = self.make()
            entry.build(sight("build"))
            entry.warm_up(sight("warm-up"))
            return validate_claim(entry.evaluate(sight("scoring")), len(tokens) - 1)

        return EvaluationRun(self._call_guarded(play), log)

    def _call_guarded(self, work: Callable[[], T]) -> T:
        """What foreign code returns; its errors and its endlessness are findings.

        A thread that hangs cannot be ended: it dies with the process.
        """
        results: list[T] = []
        failures: list[BaseException] = []

        def run() -> None:
            try:
                results.append(work())
            except BaseException as failure:  # foreign code may raise anything, `SystemExit` too
                failures.append(failure)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self.budget.timeout)
        if failures:
            raise AuditStopped(error("evaluation-error", f"{type(failures[0]).__name__}: {failures[0]}")) from failures[
                0
            ]
        if not results:
            raise AuditStopped(error("timeout", f"{self.budget.timeout:g} s", seconds=self.budget.timeout))
        return results[0]


def encode_documents(documents: Sequence[bytes], alphabet: EvaluationTokenizer) -> TokenizedText:
    """As `score.text.tokenize_documents`, but what does not come back is left to the audit."""
    pieces = [np.append(alphabet.bos, np.asarray(alphabet.encode(document), np.int64)) for document in documents]
    return TokenizedText(append_final_bos(np.concatenate(pieces), alphabet.bos), sum(map(len, documents)), alphabet.bos)


def validate_claim(claim: ClaimedScore, targets: int) -> ClaimedScore:
    """A claim on a text of so many targets. Raises where it is none."""
    positions, bits = claim.positions, claim.bits
    if positions.ndim != 1 or positions.shape != bits.shape or not len(bits) or positions.dtype.kind not in "iu":
        raise BitgolfError(f"{positions.shape} positions, {positions.dtype}, and {bits.shape} charges")
    if positions.min() < 0 or positions.max() >= targets:
        raise BitgolfError(f"a charge for a target outside 0 … {targets - 1}")
    if not (np.isfinite(bits).all() and math.isfinite(claim.side_bits) and claim.side_bits >= 0):
        raise BitgolfError("charges that are not finite, or side information of less than no bits")
    if claim.bytes <= 0:
        raise BitgolfError(f"a text of {claim.bytes} bytes")
    return claim
