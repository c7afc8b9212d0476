"""Each rule of the audit, on an evaluation that breaks only that rule. Realistic cheats are in `attacks`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest

from attacks.random_configurations import TwoBitTokenizer
from bitgolf.errors import UsageError
from bitgolf.score.audit.audit import AuditReport, audit_evaluation
from bitgolf.score.audit.budget import AuditBudget
from bitgolf.score.audit.evaluation import ClaimedScore, DataView, Floats, Ints, TextRead
from bitgolf.score.audit.normalization import count_passes
from bitgolf.score.document_order import LongestFirstOrder, ShuffledOrder

VOCAB = TwoBitTokenizer.vocab
DOCUMENTS = [b"abcabdab", b"dcbaabcdeaabc", b"badcab", b"eabcdabcdabcd", b"cabbage"]


class Entry:
    """An honest evaluation with a unigram model of the training text."""

    isolated = False

    def __init__(self) -> None:
        self.tokenizer: Any = TwoBitTokenizer()

    def build(self, view: DataView) -> None:
        counts = np.bincount(view.training(), minlength=VOCAB) + 1.0
        self.bits: Floats = -np.log2(counts / counts.sum())

    def warm_up(self, view: DataView) -> None:
        pass

    def evaluate(self, view: DataView) -> ClaimedScore:
        tokens = view.tokens()
        return ClaimedScore(np.arange(view.targets), self.bits[tokens[1:]], view.bytes)


def examined(entry: Callable[[], Any], **depth: Any) -> AuditReport:
    return audit_evaluation(entry, DOCUMENTS, DOCUMENTS, budget=AuditBudget(**depth))


def test_an_honest_entry_passes_and_its_claim_is_its_own() -> None:
    found = examined(Entry)
    assert found.verdict == "passes" and not found.findings and found.runs > 20
    tokens = np.concatenate([[1, *TwoBitTokenizer().encode(d)] for d in DOCUMENTS])
    shares = np.bincount(tokens, minlength=VOCAB) + 1.0
    shares[1] += 1  # the BOS after the last document
    bits = -np.log2(shares / shares.sum())
    assert found.claimed == pytest.approx(float(bits[tokens].sum()) / sum(map(len, DOCUMENTS)))


def test_the_same_seed_asks_the_same_questions() -> None:
    class Peeks(Entry):
        def evaluate(self, view: DataView) -> ClaimedScore:
            claim = super().evaluate(view)
            return claim._replace(bits=claim.bits + 0.1 * (np.roll(view.tokens(), -2)[1:] == 3))

    first, second = (audit_evaluation(Peeks, DOCUMENTS, DOCUMENTS, seed=3) for _ in range(2))
    assert first == second and first.findings


def test_an_audit_needs_text() -> None:
    with pytest.raises(UsageError, match="at least three documents"):
        audit_evaluation(Entry, DOCUMENTS[:2], DOCUMENTS)
    with pytest.raises(UsageError):
        audit_evaluation(Entry, [*DOCUMENTS, b""], DOCUMENTS)


# ---- errors and timeouts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [ValueError("a shape"), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["build", "warm_up", "evaluate"])
def test_an_entry_that_raises_is_a_finding(where: str, failure: BaseException) -> None:
    class Raises(Entry):
        def __getattribute__(self, name: str) -> Any:
            if name == where:
                raise failure
            return super().__getattribute__(name)

    found = examined(Raises)
    assert found.verdict == "evaluation-error" and type(failure).__name__ in found.findings[0].message


def test_a_factory_that_raises_is_a_finding() -> None:
    def make() -> Entry:
        raise OSError("no artifact")

    found = examined(make)
    assert found.verdict == "evaluation-error" and found.runs == 0 and np.isnan(found.claimed)


def test_an_entry_that_hangs_is_a_finding() -> None:
    class Hangs(Entry):
        def warm_up(self, view: DataView) -> None:
            time.sleep(1.5)

    assert examined(Hangs, timeout=0.3).verdict == "timeout"


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c._replace(bits=c.bits[1:]),
        lambda c: c._replace(bits=c.bits * np.nan),
        lambda c: c._replace(positions=c.positions + 1),
        lambda c: c._replace(positions=c.positions - 1),
        lambda c: c._replace(positions=c.positions[:0], bits=c.bits[:0]),
        lambda c: c._replace(bytes=0),
        lambda c: c._replace(side_bits=-5.0),
        lambda c: "0.9485 bits per byte",
        lambda c: c._replace(positions=c.positions.astype(float)),
    ],
)
def test_what_is_no_claim_is_a_finding(change: Callable[[ClaimedScore], Any]) -> None:
    class Odd(Entry):
        def evaluate(self, view: DataView) -> ClaimedScore:
            return change(super().evaluate(view))

    assert examined(Odd).verdict == "evaluation-error"


@pytest.mark.parametrize(
    "change",
    [
        {"encode": lambda self, data: np.array([99])},
        {"encode": lambda self, data: np.array([-1])},
        {"encode": lambda self, data: np.array([2, 1, 3])},
        {"encode": lambda self, data: np.array([[2, 3]])},
        {"encode": lambda self, data: np.array([2] * len(data))},
        {"encode": lambda self, data: np.array([], np.int64)},
        {"encode": lambda self, data: "abc"},
        {"vocab": 2},
        {"vocab": "six"},
        {"bos": 6},
        {"bos": -1},
        {"decode": lambda self, ids: None},
    ],
)
def test_a_tokenizer_that_is_none_is_a_finding(change: dict[str, Any]) -> None:
    class Odd(Entry):
        def __init__(self) -> None:
            self.tokenizer = type("OddTokenizer", (TwoBitTokenizer,), change)()

    found = examined(Odd)
    assert found.findings and found.findings[0].rule == "evaluation-error", found


def test_a_distribution_may_exclude_tokens() -> None:
    class Sure(Entry):
        """Expects one token only, which is the right one."""

        def evaluate(self, view: DataView) -> ClaimedScore:
            tokens = view.tokens()
            rows = np.full((view.targets, VOCAB), np.inf)
            rows[np.arange(view.targets), tokens[1:]] = 0.0
            return ClaimedScore(
                np.arange(view.targets),
                np.zeros(view.targets),
                view.bytes,
                distributions={t: rows[t] for t in view.distribution_targets},
            )

    assert examined(Sure).verdict == "target-in-key"


def test_what_cannot_be_repeated_proves_nothing() -> None:
    random = np.random.default_rng(0)

    class Dice(Entry):
        def evaluate(self, view: DataView) -> ClaimedScore:
            claim = super().evaluate(view)
            return claim._replace(bits=claim.bits + 0.01 * random.random())

    found = examined(Dice)
    assert [f.rule for f in found.findings] == ["not-deterministic"]


# ---- coverage and denominator ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "severity", "change"),
    [
        (
            "skipped-targets",
            "error",
            lambda c: c._replace(positions=np.delete(c.positions, 9), bits=np.delete(c.bits, 9)),
        ),
        (
            "charged-twice",
            "error",
            lambda c: c._replace(positions=np.append(c.positions, 5), bits=np.append(c.bits, 1)),
        ),
        ("dropped-tail", "error", lambda c: c._replace(positions=c.positions[:-3], bits=c.bits[:-3])),
        ("bytes-over", "error", lambda c: c._replace(bytes=c.bytes + 1)),
        ("bytes-under", "warning", lambda c: c._replace(bytes=c.bytes - 1)),
    ],
)
def test_counts(rule: str, severity: str, change: Callable[[ClaimedScore], ClaimedScore]) -> None:
    class Counts(Entry):
        def evaluate(self, view: DataView) -> ClaimedScore:
            return change(super().evaluate(view))

    found = examined(Counts)
    assert (found.findings[0].rule, found.findings[0].severity) == (rule, severity)
    assert found.verdict == (rule if severity == "error" else "passes")


def test_an_error_leads_over_a_warning() -> None:
    class Doubts(Entry):
        def evaluate(self, view: DataView) -> ClaimedScore:
            claim = super().evaluate(view)
            return claim._replace(bytes=claim.bytes - 1, bits=claim.bits - 0.1)

    found = examined(Doubts)
    assert found.verdict == "sums-to-one" and [f.rule for f in found.findings[-1:]] == ["bytes-under"]


class Lossy(TwoBitTokenizer):
    def encode(self, data: bytes, /) -> Ints:
        return super().encode(data.replace(b"e", b"a"))


class Folds(Entry):
    def __init__(self) -> None:
        self.tokenizer = Lossy()


class Pays(Folds):
    """Scores every token with 2.6 bits, so that a document costs more than 8 bits per byte."""

    def evaluate(self, view: DataView) -> ClaimedScore:
        claim = super().evaluate(view)
        return claim._replace(bits=np.full(view.targets, 2.6))


def test_a_lossy_tokenizer_passes_where_it_is_charged() -> None:
    assert examined(Folds).verdict == "lossy-tokenizer"
    assert "lossy-tokenizer" not in {f.rule for f in examined(Pays).findings}


# ---- contamination ---------------------------------------------------------------------------------------------------


def test_reading_without_learning_is_a_warning() -> None:
    class Looks(Entry):
        def warm_up(self, view: DataView) -> None:
            view.tokens(0, 4)

    found = examined(Looks)
    assert found.verdict == "passes" and [f.rule for f in found.findings] == ["reads-before-scoring"]
    assert "warm-up" in found.findings[0].message


def test_training_and_warming_up_on_training_text_is_fair() -> None:
    class Trains(Entry):
        def warm_up(self, view: DataView) -> None:
            self.bits = self.bits + 0.0 * float(view.training(5).sum())

    assert not examined(Trains).findings


def test_learning_in_both_phases_is_two_findings() -> None:
    class Learns(Entry):
        def build(self, view: DataView) -> None:
            super().build(view)
            self.learn(view, 3)

        def warm_up(self, view: DataView) -> None:
            self.learn(view, 4)

        def learn(self, view: DataView, token: int) -> None:
            chances = 2.0**-self.bits
            chances[token] *= 1 + (view.tokens() == token).mean()
            self.bits = -np.log2(chances / chances.sum())

    assert [f.rule for f in examined(Learns).findings] == ["calibrated-on-validation", "warmed-up-on-validation"]


# ---- documents and orders --------------------------------------------------------------------------------------------


class Arranged(Entry):
    """Scores documents in its own order, each token by its count among the tokens scored before."""

    order: ClassVar[Any] = ShuffledOrder(seed=1)
    pays: ClassVar[bool] = False

    def evaluate(self, view: DataView) -> ClaimedScore:
        tokens = view.tokens()
        ends = np.flatnonzero(np.append(tokens[1:-1] == 1, True)) + 1
        lengths = np.diff(ends, prepend=0)
        spans = np.split(np.arange(view.targets), ends[:-1])
        order = np.concatenate([spans[i] for i in self.order.permutation(lengths)])
        counts, bits = np.ones(VOCAB), list[float]()
        for target in tokens[order + 1].tolist():
            bits.append(float(-np.log2(counts[target] / counts.sum())))
            counts[target] += 1
        return ClaimedScore(
            order, np.array(bits), view.bytes, float(self.order.side_bits(lengths)) if self.pays else 0.0
        )


def test_an_order_that_the_text_does_not_decide_is_fair() -> None:
    assert not examined(Arranged).findings


def test_lengths_are_fair_where_they_are_paid() -> None:
    class Longest(Arranged):
        order = LongestFirstOrder()

    class Paid(Longest):
        pays = True

    assert examined(Longest).verdict == "document-lengths"
    assert not examined(Paid).findings
    assert examined(Paid).claimed > examined(Longest).claimed


# ---- normalization ---------------------------------------------------------------------------------------------------


class Hands(Entry):
    """Reports its distributions."""

    wrong: ClassVar[float] = 0.0

    def evaluate(self, view: DataView) -> ClaimedScore:
        return (
            super()
            .evaluate(view)
            ._replace(distributions=dict.fromkeys(view.distribution_targets, self.bits + self.wrong))
        )


def test_a_distribution_that_is_handed_over_is_what_is_charged() -> None:
    class Wrong(Hands):
        wrong = 0.5

    assert not examined(Hands).findings
    assert examined(Wrong).verdict == "charge-mismatch"


@pytest.mark.parametrize("factor", [0.999, 1.001])
def test_probabilities_sum_to_one(factor: float) -> None:
    class Scaled(Entry):
        def evaluate(self, view: DataView) -> ClaimedScore:
            claim = super().evaluate(view)
            return claim._replace(bits=claim.bits - np.log2(factor))

    found = examined(Scaled)
    assert found.verdict == "sums-to-one" and found.findings[0].evidence["sum"] == pytest.approx(factor)
    some = examined(Scaled, candidates=4)
    assert some.verdict == "passes", "a sum over four of six tokens may be below one"


def test_sweeps() -> None:
    def counted(*spans: tuple[int, int]) -> int:
        return count_passes([TextRead("scoring", *span) for span in spans], 100)

    assert counted((0, 101)) == 1 and counted((0, 101), (0, 101)) == 2
    assert counted(*((i, i + 20) for i in range(0, 90, 5))) == 1, "overlapping windows are one pass"
    assert counted((0, 50), (0, 50), (50, 101)) == 1
    assert count_passes([TextRead("build", 0, 101)], 100) == 0
