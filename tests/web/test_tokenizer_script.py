"""The tokenizers of pages encode and decode as those of the package."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.errors import BitgolfError
from bitgolf.tokens.byte_tokenizer import ByteTokenizer
from bitgolf.tokens.loading import load_tokenizer, tokenizer_from_bytes
from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer
from bitgolf.tokens.tiktoken_tokenizer import serialize_tiktoken
from bitgolf.tokens.tokenizer import Tokenizer
from bitgolf.tokens.trainers import CaseOpsBPE, SentencePieceBPE
from bitgolf.web.page import tokenizer_script
from bitgolf.web.tokenizer import tokenizer_data
from helpers.byte_level_tokenizers import tiktoken_file_of, train_huggingface
from helpers.examples import examples
from helpers.javascript import Node

WORDS = (
    "▁|  |The |NASA|iPhone|ab|É|日本|\U0001f600|\n|x|XY|eB|A|<s>|\0|é|.|\ue001|\ue002ab|\ue003c|\ue004|the |a\ue003b"
)
TEXTS = st.lists(st.sampled_from(WORDS.split("|")) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5))


def with_symbols(passages: list[bytes]) -> bytes:
    """A model whose symbols have several characters, as models of others may have."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(passage.decode() for passage in passages),
        model_writer=model, model_type="bpe", vocab_size=400, byte_fallback=True, hard_vocab_limit=False,
        user_defined_symbols=["The ", "The\u2581", "The\u2581N", "XY", "ab"], minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


TRAINERS: dict[str, Callable[[list[bytes]], bytes]] = {
    "symbols": with_symbols,
    "sentencepiece": lambda passages: SentencePieceBPE(vocab=600).train(passages),
    "caseops": lambda passages: CaseOpsBPE(vocab=600).train(passages),
    "bytes": lambda _: ByteTokenizer().serialized,
}


@pytest.fixture(scope="module", params=TRAINERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    passages = [f"The NASA of an iPhone is the thing number {i}: Cats & dogs in XY.".encode() for i in range(99)]
    return tokenizer_from_bytes(TRAINERS[request.param](passages))


def run(node: Node, tokenizer: Tokenizer, body: str) -> object:
    return node.run(tokenizer_script(tokenizer_data(tokenizer)) + body)


@settings(max_examples=examples(12))
@given(TEXTS.map("".join))
def test_any_text_gets_the_same_tokens(node: Node, tokenizer: Tokenizer, text: str) -> None:
    expected = tokenizer.encode(text.encode()).tolist()
    found = run(node, tokenizer, f"const t = encode({json.dumps(text)}); return [t, decode(t)];")
    assert found == [expected, text]


@settings(max_examples=examples(12))
@given(st.lists(st.integers(0, 259), max_size=40))
def test_any_tokens_have_the_same_text(node: Node, tokenizer: Tokenizer, tokens: list[int]) -> None:
    expected = tokenizer.decode_lenient(tokens).decode(errors="replace")
    assert run(node, tokenizer, f"return decode({json.dumps(tokens)});") == expected


def test_symbols_are_those_given_to_the_trainer() -> None:
    opened = SentencePieceTokenizer(SentencePieceBPE(vocab=400).train([b"in the inner inn in"] * 9))
    assert opened.symbols == frozenset()
    assert opened.is_bpe


def test_published_tokenizers_are_the_same(node: Node, shared: Path) -> None:
    text = "In 1905, ALBERT Einstein's iPhone (NASA) cost €3.50 \u2014 na\u00efve?\n\n  def f(x): return x**2"
    for path in sorted((shared / "data" / "tokenizers").glob("*.model")):
        opened = load_tokenizer(path)
        if not opened.byte_fallback:
            continue
        assert run(node, opened, f"return encode({json.dumps(text)});") == opened.encode(text.encode()).tolist()


@pytest.mark.parametrize("kind", ["huggingface", "tiktoken"])
def test_other_tokenizers_are_refused_by_kind(kind: str) -> None:
    settings = train_huggingface([b"a text of a few words"] * 20, vocab=270)
    file = (
        json.dumps(settings).encode()
        if kind == "huggingface"
        else serialize_tiktoken(tiktoken_file_of(settings), "gpt2")
    )
    with pytest.raises(BitgolfError, match=f"this one is {kind}"):
        tokenizer_data(tokenizer_from_bytes(file))
