"""How many questions an audit asks, where, and what its figures mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.evaluations.corpora import letters_corpus, typographic_corpus
from attacks.evaluations.honest import AdaptiveBigram, BigramEvaluation, IsolatedBigram, SilentBigram
from attacks.evaluations.partly import MakeEvaluation
from attacks.evaluations.stored import Stored
from attacks.evaluations.suite import audit_on
from attacks.evaluations.tokenizers import ModelsOwnEncoding, NFKCTokenizer, WithTokenizer
from bitgolf.errors import UsageError
from bitgolf.score.audit.audit import AuditObserver, audit_evaluation
from bitgolf.score.audit.budget import AuditBudget, questions_for
from bitgolf.score.audit.evaluation import ClaimedScore, DataView, Floats, Ints
from bitgolf.score.audit.harness import AuditHarness
from bitgolf.score.audit.losslessness import correction_bits
from bitgolf.score.audit.plan import AuditPlan
from bitgolf.score.audit.runner import LocalRunner
from bitgolf.score.audit.stored_text import novel_targets
from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer
from helpers.examples import examples

FEW = AuditBudget(confidence=0.8, share=0.3)


def harness(kind: MakeEvaluation = BigramEvaluation, budget: AuditBudget = FEW, seed: int = 0) -> AuditHarness:
    scored, training, tokenizer = letters_corpus()
    return AuditHarness(LocalRunner(lambda: kind(tokenizer), 60), scored, training, seed, budget)


@pytest.mark.parametrize(
    ("confidence", "share", "expected"), [(0.95, 0.1, 29), (0.95, 0.5, 5), (0.99, 0.01, 459), (0.5, 0.5, 1)]
)
def test_the_confidence_sets_the_number_of_questions(confidence: float, share: float, expected: int) -> None:
    assert questions_for(confidence, share) == expected
    assert (1 - share) ** expected <= 1 - confidence < (1 - share) ** (expected - 1)


@pytest.mark.parametrize(
    "budget", [AuditBudget(confidence=1.0), AuditBudget(share=0.0), AuditBudget(share=float("nan"))]
)
def test_an_impossible_confidence_is_refused(budget: AuditBudget) -> None:
    with pytest.raises(UsageError, match="must be above 0 and below 1"):
        audit_evaluation(
            lambda: BigramEvaluation(letters_corpus().tokenizer), [b"a", b"b", b"c"], [b"a"], budget=budget
        )


PLACES = {
    "first half": lambda t, n: t < n / 2,
    "last tenth": lambda t, n: t >= 0.9 * n,
    "every fifth": lambda t, n: t % 5 == 0,
    "two tenths": lambda t, n: (t // (n // 10)) % 5 == 1,
    "random": lambda t, n: np.random.default_rng(3).random(n) < 0.2,
    "begin of documents": None,
}


@pytest.mark.parametrize("name", PLACES)
def test_a_share_escapes_as_rarely_as_stated(name: str) -> None:
    asking = harness()
    targets = np.arange(asking.text.num_targets)
    if place := PLACES[name]:
        here = place(targets, len(targets))
    else:
        starts, stops = asking.spans[asking.document_of].T
        here = (targets - starts) / (stops - starts) < 0.2
    missed = np.mean([not here[asking.draw(targets, 12)].any() for _ in range(800)])
    stated = (1 - here.mean()) ** 12
    assert missed <= stated + 4 * np.sqrt(stated / 800) + 0.001, (missed, stated)


@settings(max_examples=examples(40), deadline=None)
@given(count=st.integers(1, 400), seed=st.integers(0, 99))
def test_questions_are_distinct_in_each_half_and_come_from_all_parts(count: int, seed: int) -> None:
    asking = harness(seed=seed)
    order = np.random.default_rng(seed).permutation(asking.text.num_targets)
    drawn = asking.draw(order, count)
    assert len(drawn) == min(count, len(order))
    half = count - count // 2
    assert len(set(drawn[:half].tolist())) == half and len(set(drawn[half:].tolist())) == len(drawn) - half
    if len(drawn) < len(order):
        parts = np.array_split(order, half)
        assert all(target in part for target, part in zip(drawn.tolist(), parts, strict=False))


def test_isolated_documents_are_asked_together() -> None:
    asking = harness(IsolatedBigram)
    targets = asking.draw(np.arange(asking.text.num_targets), 60)
    together = asking.by_run(targets)
    assert sorted(np.concatenate(together).tolist()) == sorted(targets.tolist())
    assert all(len(set(asking.document_of[own])) == len(own) for own in together)
    assert len(together) == np.bincount(asking.document_of[targets]).max() < 20


@pytest.mark.parametrize("kind", [BigramEvaluation, IsolatedBigram, SilentBigram])
def test_the_plan_states_the_runs_before_most_of_them(kind: MakeEvaluation) -> None:
    class Watching(AuditObserver):
        def __init__(self) -> None:
            self.plans, self.done, self.names = list[tuple[AuditPlan, float, int]](), 0, list[str]()

        def planned(self, plan: AuditPlan, seconds: float) -> None:
            self.plans.append((plan, seconds, self.done))

        def ran(self, runs: int) -> None:
            self.done = runs

        def checking(self, check: str) -> None:
            self.names.append(check)

    scored, training, tokenizer = letters_corpus()
    watching = Watching()
    report = audit_evaluation(lambda: kind(tokenizer), scored, training, budget=FEW, observer=watching)
    (plan, seconds, done), *others = watching.plans
    assert done == 3 and not others and seconds > 0
    ends = 3 * FEW.swaps  # the ends of documents are asked alone, and every token is tried but the target
    assert abs(plan.runs - report.runs) <= max(ends, 0.1 * plan.runs)
    names = [check.check for check in plan.checks]
    assert [check.check for check in report.checks] == names == [name for name in watching.names if name in names]
    assert all(0 <= check.escape <= 0.2 for check in report.checks)


def test_an_evaluation_that_cheats_only_in_its_first_run_is_not_deterministic() -> None:
    runs = list[int]()

    class Once(AdaptiveBigram):
        def evaluate(self, view: DataView) -> ClaimedScore:
            runs.append(1)
            claim = super().evaluate(view)
            return claim._replace(bits=claim.bits * (0.5 if len(runs) == 1 else 1))

    assert audit_on(letters_corpus, Once, FEW).verdict == "not-deterministic"


# ---- losses ----------------------------------------------------------------------------------------------------------


@settings(max_examples=examples(50), deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_a_correction_costs_nothing_only_where_nothing_is_lost(document: bytes, restored: bytes) -> None:
    assert (correction_bits(document, restored) == 0) == (document == restored)


def test_a_correction_costs_as_much_as_was_lost() -> None:
    text = np.random.default_rng(0).integers(97, 123, 60_000).astype(np.uint8)
    one, many = text.copy(), text.copy()
    one[30_000] = 65
    many[::100] = 65
    few = correction_bits(one.tobytes(), text.tobytes())
    assert 8 <= few <= 100 < 600 * 8 < correction_bits(many.tobytes(), text.tobytes()) < 600 * 60


def test_a_normalizing_tokenizer_is_named_with_what_it_loses() -> None:
    class Normalizing(WithTokenizer):
        wrap = NFKCTokenizer

        def evaluate(self, view: DataView) -> ClaimedScore:
            return super().evaluate(view)._replace(bytes=view.bytes)

        def bytes(self, tokens: Ints) -> int:
            return 0

    (finding, *others) = audit_on(typographic_corpus, Normalizing, FEW).findings
    assert finding.rule == "lossy-tokenizer" and not [other for other in others if other.severity == "error"]
    assert "10 of 10 documents" in finding.message and "bpb" in finding.message
    assert 0 < finding.evidence["bpb"] < 0.3 and finding.evidence["bits"] > 10


@pytest.mark.parametrize(
    ("name", "renamed", "verdict"),
    [
        ("fineweb_1024_bpe", True, "lossy-tokenizer, no-space-piece"),
        ("fineweb_1024_bpe", False, "lossy-tokenizer, bytes-over"),  # it counts the bytes of the normalized text
        ("fineweb_2048_bpe_no_byte_fallback", False, "lossy-tokenizer"),
    ],
)
def test_published_tokenizers_have_all_their_faults_named(name: str, renamed: bool, verdict: str, shared: Path) -> None:
    """renamed: the model has no piece for a lone space, but hundreds that begin with one."""
    data = (shared / "data" / "tokenizers" / f"{name}.model").read_bytes()
    model = SentencePieceTokenizer(data.replace(b"\x0a\x03\xe2\x96\x81", b"\x0a\x03\xe2\x96\x82") if renamed else data)

    class Published(WithTokenizer):
        def __init__(self, tokenizer: Any) -> None:
            super().__init__(tokenizer)
            self.tokenizer = ModelsOwnEncoding(tokenizer)

    report = audit_on(lambda: typographic_corpus()._replace(tokenizer=model), Published, FEW)
    assert report.verdict == verdict, report.findings


# ---- stored text -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "words"), [(50, "more than the artifact's 50"), (9_999, "which fit in the artifact's")]
)
def test_missing_bytes_are_set_against_the_artifact(size: int, words: str) -> None:
    scored, training, tokenizer = letters_corpus()
    report = audit_evaluation(lambda: Stored(tokenizer), scored, training, budget=FEW, artifact_bytes=size)
    assert report.verdict == "stored-text" and words in report.findings[0].message
    assert 50 < report.findings[0].evidence["missing_bits"] / 8 < 400


def test_what_follows_from_elsewhere_is_not_novel() -> None:
    asking = harness()
    novel = novel_targets(asking)
    assert 0.3 < novel.mean() <= 1
    twice = asking.encode([*asking.documents, *asking.documents])
    asking.text, asking.documents = twice, [*asking.documents, *asking.documents]
    for name in ("spans", "document_of", "charges", "baseline"):
        asking.__dict__.pop(name, None)
    assert novel_targets(asking).mean() < 0.1


def test_a_tokenizer_that_was_shown_nothing_decodes() -> None:
    class Notes(WithTokenizer):
        """The tokens of a document are its number."""

        def __init__(self, tokenizer: object) -> None:
            super().__init__(tokenizer)
            self.tokenizer = Numbers(tokenizer)

        def evaluate(self, view: DataView) -> ClaimedScore:
            bits: Floats = np.full(view.targets, 1.0)
            return ClaimedScore(np.arange(view.targets), bits, view.bytes)

    class Numbers:
        def __init__(self, tokenizer: object) -> None:
            self.vocab, self.bos, self.shown = 99, 0, list[bytes]()

        def encode(self, data: bytes) -> Ints:
            self.shown.append(data)
            return np.array([1 + len(self.shown) % 90, 1 + len(self.shown) // 90])

        def decode(self, ids: Ints) -> bytes:
            number = int(ids[0]) - 1
            return self.shown[number - 1] if number <= len(self.shown) else b""

    kind: Any = Notes
    assert "lossy-tokenizer" in audit_on(letters_corpus, kind, FEW).verdict
