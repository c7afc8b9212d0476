"""The harness of an audit: the text in the tokens of an evaluation, runs on altered texts, and what is asked of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np

from bitgolf.score.audit.budget import AuditBudget
from bitgolf.score.audit.evaluation import Bools, ClaimedScore, Floats, Ints
from bitgolf.score.audit.findings import error
from bitgolf.score.audit.runner import AuditStopped, EvaluationRequest, EvaluationRun, EvaluationRunner
from bitgolf.score.text import TokenizedText, append_final_bos

T = TypeVar("T")
MIN_VOCABULARY = 3  # BOS, and two tokens of which one can replace the other
FILLS = ("random", "text", "repeat")  # random tokens, text from elsewhere, the tokens that stay, repeated


class Charges(NamedTuple):
    """order: targets in the order in which they were scored first. bits: of that time, (targets,), nan if not scored."""

    order: Ints
    bits: Floats

    @classmethod
    def of(cls, claim: ClaimedScore, targets: int) -> Charges:
        _, first = np.unique(claim.positions, return_index=True)
        first.sort()
        bits = np.full(targets, math.nan)
        bits[claim.positions[first]] = claim.bits[first]
        return cls(claim.positions[first], bits)

    def differ(self, other: Charges, tolerance: float) -> Bools:
        """(targets,): whose bits differ, or which only one of the two has scored."""
        missing = np.isnan(self.bits) != np.isnan(other.bits)
        return missing | (np.abs(self.bits - other.bits) > tolerance)


class AuditHarness:
    """The text in the tokens of an evaluation, and runs of the evaluation. `seed` determines all random choices.

    documents: raw, at least two. training: raw documents that it may train on.
    on_run: called after each run with the number of runs so far.
    Raises `AuditStopped` if the evaluation raises an error, returns an invalid score, or exceeds the time limit.
    """

    def __init__(
        self,
        runner: EvaluationRunner,
        documents: Sequence[bytes],
        training: Sequence[bytes],
        seed: int,
        budget: AuditBudget,
        on_run: Callable[[int], None] = lambda runs: None,
    ) -> None:
        self.runner, self.documents, self.budget, self.runs, self._on_run = runner, list(documents), budget, 0, on_run
        self.random = np.random.default_rng(seed)
        self.isolated, self.vocab, self.bos = runner.facts()
        if not 0 <= self.bos < self.vocab or self.vocab < MIN_VOCABULARY:
            details = f"a tokenizer needs {MIN_VOCABULARY} tokens, BOS among them; got {self.vocab}, BOS {self.bos}"
            raise AuditStopped(error("evaluation-error", details))
        self.text, self.training = self.encode(self.documents), self.encode(training).tokens
        occur = np.union1d(self.text.tokens, self.training)
        self.token_pool: Ints = occur[occur != self.bos]
        if len(self.token_pool) < MIN_VOCABULARY - 1:
            raise AuditStopped(error("evaluation-error", "all texts are encoded as the same token, or as none"))
        self.decoy = self.perturb(self.text.tokens, np.ones(len(self.text.tokens), bool))

    # ---- text --------------------------------------------------------------------------------------------------------

    def encode(self, documents: Sequence[bytes]) -> TokenizedText:
        """Tokenize documents with the evaluation's tokenizer, which may be lossy. `bytes` are those of the raw ones."""
        encoded = self.runner.encode(documents)
        for ids in encoded:
            if ids.ndim != 1 or ((ids < 0) | (ids >= self.vocab) | (ids == self.bos)).any():
                details = f"`encode` must return tokens (n,) from 0 to {self.vocab - 1} without BOS ({self.bos})"
                raise AuditStopped(error("evaluation-error", f"{details}, got {ids.shape} up to {ids.max(initial=0)}"))
        pieces = [np.append(self.bos, ids) for ids in encoded]
        return TokenizedText(append_final_bos(np.concatenate(pieces), self.bos), sum(map(len, documents)), self.bos)

    def random_tokens(self, size: int) -> Ints:
        """Random tokens (size,), drawn from those that occur in the texts, without BOS."""
        return self.random.choice(self.token_pool, size)

    def perturb(self, tokens: Ints, where: Bools, fill: str = "random") -> Ints:
        """Replace the tokens selected by `where` by different ones. BOS is never replaced or inserted.

        fill: one of `FILLS`. An evaluation that chooses between two models by the later text chooses one of them on
        random tokens, and the other on text that repeats itself.
        """
        where = where & (tokens != self.bos)
        wanted, kept = tokens[where], tokens[~where & (tokens != self.bos)]
        source = self._other_text if fill == "text" else kept if fill == "repeat" else wanted[:0]
        if len(source):
            fresh = np.resize(
                np.roll(source, -int(self.random.integers(len(source))) if fill == "text" else 0), len(wanted)
            )
        else:
            fresh = wanted
        shifts = self.random.integers(1, max(len(self.token_pool), 2), len(wanted))
        others = self.token_pool[(np.searchsorted(self.token_pool, wanted) + shifts) % len(self.token_pool)]
        result = tokens.copy()
        result[where] = np.where(fresh == wanted, others, fresh)
        return result

    @cached_property
    def _other_text(self) -> Ints:
        both = np.concatenate([self.training, self.text.tokens])
        return both[both != self.bos]

    def random_lengths(self, total: int, parts: int) -> Ints:
        """Random, very unequal lengths (parts,) that sum to `total`."""
        least = min(2, total // parts)
        return least + self.random.multinomial(total - least * parts, self.random.dirichlet(np.full(parts, 0.3)))

    @cached_property
    def spans(self) -> Ints:
        """(documents, 2): start and stop of the targets of each document."""
        return np.array(self.text.documents(), np.int64)

    @cached_property
    def document_of(self) -> Ints:
        """The index of each target's document, (targets,)."""
        return np.repeat(np.arange(len(self.spans)), self.spans[:, 1] - self.spans[:, 0])

    # ---- questions ---------------------------------------------------------------------------------------------------

    def draw(self, among: Ints, count: int) -> Ints:
        """Targets to ask about, at most `count`: half of them from equal parts of the text in the order of scoring,
        half from equal parts of the documents.

        among: targets in the order of scoring. A share f of them, wherever it is, has the shares f_i of the parts of
        one half; as their mean is f, all draws of that half miss it with probability Π (1 - f_i) <= (1 - f)^parts.
        """
        if len(among) <= count:
            return among
        starts, stops = self.spans[self.document_of[among]].T
        depth = among[np.lexsort((self.random.random(len(among)), (among - starts) / (stops - starts)))]
        halves = (among, count - count // 2), (depth, count // 2)
        return np.concatenate([self.one_of_each(np.array_split(order, parts)) for order, parts in halves if parts])

    def one_of_each(self, parts: Sequence[Ints]) -> Ints:
        """A random element of each part that has any."""
        return np.array([part[self.random.integers(len(part))] for part in parts if len(part)], np.int64)

    def by_run(self, targets: Ints) -> list[Ints]:
        """The targets of each run: one per run, or one of each document if documents are isolated."""
        if not self.isolated:
            return [targets[i : i + 1] for i in range(len(targets))]
        waiting = [list(targets[self.document_of[targets] == i]) for i in range(len(self.spans))]
        found = list[Ints]()
        while any(waiting):
            found.append(np.array([own.pop() for own in waiting if own], np.int64))
        return found

    def up_to(self, target: int, charges: Charges | None = None) -> Ints:
        """The targets that are scored up to a target, in order; only those of its document if documents are isolated.

        charges: of a run on a text with the same documents, or which differs only after this target.
        """
        order = (charges or self.charges).order
        if self.isolated:
            order = order[
                (order >= self.spans[self.document_of[target], 0]) & (order < self.spans[self.document_of[target], 1])
            ]
        return order[: int(np.argmax(order == target)) + 1] if target in order else order[:0]

    # ---- runs --------------------------------------------------------------------------------------------------------

    @cached_property
    def baseline(self) -> EvaluationRun:
        """The run that others are compared with: it sees the text only when it scores it."""
        return self.run(self.text.tokens)

    @cached_property
    def charges(self) -> Charges:
        """The bits of the baseline."""
        return Charges.of(self.baseline.claim, self.text.num_targets)

    def charges_on(self, tokens: Ints) -> Charges:
        """The bits of a run on another text."""
        return Charges.of(self.run(tokens).claim, len(tokens) - 1)

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
        request = EvaluationRequest(
            self.decoy if build is None else build,
            self.decoy if warm_up is None else warm_up,
            tokens,
            self.training,
            raw_bytes or self.text.bytes,
            frozenset(distribution_targets),
        )
        found = self.runner.run(request)
        self._on_run(self.runs)
        return found
