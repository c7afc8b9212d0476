"""The breakdown of a score by classes of targets: known classes, sums equal to the score, and naive counts of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.config.spec import part
from bitgolf.runtime.device import Device, select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.bit_breakdown import bit_breakdown
from bitgolf.score.evaluate import ScoringContext, evaluate_method
from bitgolf.score.methods import ContiguousScoring
from bitgolf.score.result import BitBreakdown, BitsRow
from bitgolf.score.text import TokenizedText
from bitgolf.text.caseops import TITLE
from bitgolf.tokens.tokenizer import Ids, Tokenizer
from helpers.examples import examples
from helpers.toy import VOCAB, built, toy_model

PIECES = [
    b"", b" the", b"un", b"like", b"ly", b" 12", b"$5", b",", b" ", b"\n", TITLE, b"\xe2", " Größe".encode(), b"'", b"12th", b" it's",
]  # fmt: skip


class Pieces(Tokenizer):
    """A tokenizer whose tokens are `PIECES`; token 0 is BOS."""

    kind = "pieces"

    def __init__(self) -> None:
        super().__init__(b"", "test")
        self.bos, self.piece_bytes, self.piece_strings = 0, PIECES, [repr(piece) for piece in PIECES]
        self.is_boundary = np.arange(len(PIECES)) == 0
        self.byte_lengths = np.array([len(piece) for piece in PIECES], np.int64)
        self.is_byte = self.byte_lengths == 1

    def encode_documents(self, documents: Sequence[bytes]) -> list[Ids]:
        raise NotImplementedError


TOKENIZER = Pieces()


def text_of(*documents: Sequence[int]) -> TokenizedText:
    tokens = np.array([token for document in documents for token in (0, *document)] + [0], np.int64)
    return TokenizedText(tokens, sum(len(PIECES[token]) for token in tokens), bos=0)


def breakdown(text: TokenizedText, charges: Sequence[float] | np.ndarray) -> BitBreakdown:
    found = bit_breakdown(text, np.asarray(charges, np.float64), TOKENIZER, SINGLE_PROCESS)
    assert found
    return found


def bits(rows: Sequence[BitsRow]) -> dict[str, float]:
    return {row.name: row.bits for row in rows}


def token(piece: bytes | str) -> int:
    return PIECES.index(piece.encode() if isinstance(piece, str) else piece)


def test_kinds_of_tokens() -> None:
    words = [
        " the",
        ",",
        "un",
        "like",
        "ly",
        " 12",
        "$5",
        " ",
        "\n",
        TITLE,
        "like",
        "'",
        b"\xe2",
        "ly",
        " Größe",
        "12th",
        " it's",
    ]
    text = text_of([token(word) for word in words])
    charges = [2.0**i for i in range(len(words) + 1)]
    of = dict(zip([*words[:10], "like again", "'", "byte", "ly again", *words[14:], "end"], charges, strict=True))
    assert bits(breakdown(text, charges).kinds) == {
        "whole word": of[" the"] + of["like again"] + of["ly again"] + of[" it's"],
        "first piece of a word": of["un"] + of[" Größe"],
        "later piece of a word": of["like"] + of["ly"] + of["12th"],
        "digits": of[" 12"] + of["$5"],
        "punctuation": of[","] + of["'"],
        "white space": of[" "] + of["\n"],
        "case operator": of[TITLE],
        "byte": of["byte"],
        "end of document": of["end"],
    }


def test_positions_and_lengths() -> None:
    text = text_of([1] * 20, [1] * 15)  # 21 and 16 targets
    found = breakdown(text, [1.0] * 37)
    assert found.positions == [BitsRow("0 to 15", 32, 31 * 4, 32.0), BitsRow("16 to 31", 5, 16, 5.0)]
    assert [(row.name, row.targets) for row in found.lengths] == [("16 to 31", 37)]
    last = breakdown(text_of([1] * 70_000), [1.0] * 70_001)
    assert [row.name for row in last.lengths] == ["65,536 and more"]
    assert [row.name for row in last.positions][-2:] == ["32,768 to 65,535", "65,536 and more"]
    assert last.positions[-1].targets == 70_001 - 65_536


def naive_frequencies(text: TokenizedText) -> dict[str, int]:
    """Targets by class of word frequency, word by word in Python."""
    words, of = list[tuple[int, ...]](), list[int | None]()
    letters = [any(c.isalpha() for c in piece.decode(errors="replace")) for piece in PIECES]
    for before, target in zip(text.tokens.tolist(), text.tokens[1:].tolist(), strict=False):
        inner = [PIECES[t].decode(errors="replace") for t in (before, target)]
        if not letters[target]:
            of.append(None)
            continue
        if of and of[-1] is not None and inner[0][-1].isalnum() and inner[1][0].isalnum():
            words[-1] += (target,)
        else:
            words.append((target,))
        of.append(len(words) - 1)
    counts = Counter(words)

    def name(word: int | None) -> str:
        if word is None:
            return "no word"
        n = counts[words[word]]
        return "once" if n < 2 else "2 to 9 times" if n < 10 else "10 to 99 times" if n < 100 else "100 to 999 times"

    return dict(Counter(map(name, of)))


DOCUMENTS = st.lists(st.lists(st.integers(1, len(PIECES) - 1), max_size=40), min_size=1, max_size=12)


@settings(max_examples=examples(40), deadline=None)
@given(DOCUMENTS, st.integers(0, 2**32 - 1))
def test_every_table_sums_to_the_score(documents: list[list[int]], seed: int) -> None:
    text, draw = text_of(*documents), np.random.default_rng(seed)
    charges = draw.exponential(3.0, text.num_targets)
    found = breakdown(text, charges)
    for table in (found.kinds, found.positions, found.lengths, found.frequencies):
        assert sum(row.targets for row in table) == text.num_targets
        assert sum(row.bytes for row in table) == text.bytes
        assert sum(row.bits for row in table) == pytest.approx(charges.sum(), abs=2.0**-20 * len(charges))
    assert {row.name: row.targets for row in found.frequencies} == naive_frequencies(text)


@settings(max_examples=examples(20), deadline=None)
@given(DOCUMENTS, st.integers(0, 2**32 - 1))
def test_sums_do_not_depend_on_who_scored_a_target(documents: list[list[int]], seed: int) -> None:
    """The sums of two processes, each with the charges of its targets, add up to the last bit."""
    text, draw = text_of(*documents), np.random.default_rng(seed)
    charges, own = draw.exponential(3.0, text.num_targets), draw.random(text.num_targets) < 0.5
    whole, first, second = (breakdown(text, c) for c in (charges, charges * own, charges * ~own))
    for of_all, of_first, of_second in zip(whole.kinds, first.kinds, second.kinds, strict=True):
        assert of_all.bits == of_first.bits + of_second.bits


def test_the_result_of_a_method_has_a_breakdown_if_the_tokenizer_is_known() -> None:
    text = TokenizedText(np.array([0, 1, 2, 3, 5, 7, 0]), 20, bos=0)
    context = ScoringContext(built(toy_model()), VOCAB, text, select_device(device_type="cpu"), tokenizer=TOKENIZER)
    assert isinstance(context.device, Device)
    found = evaluate_method(context, part(ContiguousScoring, window=8))
    assert found.breakdown and sum(row.bits for row in found.breakdown.kinds) == pytest.approx(found.bits, abs=1e-5)
    context = ScoringContext(built(toy_model()), VOCAB, text, context.device)
    assert evaluate_method(context, part(ContiguousScoring, window=8)).breakdown is None
