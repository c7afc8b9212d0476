"""Tests of tokenizer.json files: exact bytes of each token, special tokens, and refusal of what is not byte-level."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.tokens.byte_level import BYTE_OF_CHARACTER, bytes_of_piece
from bitgolf.tokens.huggingface_tokenizer import HuggingFaceTokenizer
from bitgolf.tokens.loading import tokenizer_from_bytes
from helpers.examples import examples

Change = Callable[[dict[str, Any]], object]


def opened(spec: dict[str, Any], *changes: Change) -> HuggingFaceTokenizer:
    """Open a copy of a tokenizer.json after some changes."""
    changed = copy.deepcopy(spec)
    for change in changes:
        change(changed)
    return HuggingFaceTokenizer(json.dumps(changed).encode(), where="here")


def add_token(content: str, special: bool) -> Change:
    fields = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return lambda spec: spec["added_tokens"].append(
        {"id": len(spec["model"]["vocab"]) + len(spec["added_tokens"]) - 1, "content": content, "special": special}
        | fields
    )


def lower_case(spec: dict[str, Any]) -> None:
    spec["normalizer"] = {"type": "Lowercase"}


def prefix_space(spec: dict[str, Any]) -> None:
    spec["pre_tokenizer"]["add_prefix_space"] = True


def test_the_alphabet_is_that_of_the_package() -> None:
    package = pytest.importorskip("tokenizers")
    assert set(BYTE_OF_CHARACTER) == set(package.pre_tokenizers.ByteLevel.alphabet())
    assert sorted(BYTE_OF_CHARACTER.values()) == list(range(256))
    step = package.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    text = "".join(map(chr, [*range(0x800), 0xFFFD, 0x1F642, 0x10FFFF]))
    assert bytes_of_piece(step.pre_tokenize_str(text)[0][0]) == text.encode()
    with pytest.raises(CorruptFileError, match="stands for no byte"):
        bytes_of_piece("a b")


def test_tokens_are_those_of_the_package(huggingface_json: dict[str, Any], library: list[bytes]) -> None:
    package = pytest.importorskip("tokenizers")
    plain = package.Tokenizer.from_str(json.dumps(huggingface_json))
    tokenizer = opened(huggingface_json)
    for data in library[:8]:
        ids = tokenizer.encode(data)
        assert ids.tolist() == plain.encode(data.decode(), add_special_tokens=False).ids
        assert plain.decode(ids.tolist()).encode() == data
        assert tokenizer.count_bytes(ids).sum() == len(data) == tokenizer.published_bytes(data).sum()
    assert tokenizer.lossless and (tokenizer.vocab, tokenizer.bos) == (400, 0)


def test_names_of_special_tokens_in_a_text_are_text(huggingface_json: dict[str, Any]) -> None:
    tokenizer = opened(huggingface_json, add_token("<mask>", special=True))
    data = b"a <|endoftext|> and <mask>."
    for ids in (tokenizer.encode(data), tokenizer.encode_normalised(data)[0]):
        assert not tokenizer.is_boundary[ids].any() and tokenizer.decode(ids) == data


def test_added_tokens_that_are_not_special_have_bytes(huggingface_json: dict[str, Any]) -> None:
    tokenizer = opened(huggingface_json, add_token("<mask>", special=True), add_token("é☃", special=False))
    assert tokenizer.vocab == 402 and tokenizer.piece_bytes[400:] == [b"", "é☃".encode()]
    assert tokenizer.is_boundary[[0, 400, 401]].tolist() == [True, True, False]
    ids = tokenizer.encode("an é☃.".encode())
    assert 401 in ids.tolist() and tokenizer.count_bytes(ids).sum() == 9


def test_ids_without_a_token_have_no_bytes(huggingface_json: dict[str, Any]) -> None:
    def leave_a_gap(spec: dict[str, Any]) -> None:
        spec["model"]["vocab"][list(spec["model"]["vocab"])[-1]] = 404

    tokenizer = opened(huggingface_json, leave_a_gap)
    assert tokenizer.vocab == 405 and tokenizer.is_boundary[399:404].all() and not tokenizer.is_boundary[404]
    assert tokenizer.piece_strings[400] == ""


@pytest.mark.parametrize("change", [lower_case, prefix_space])
def test_a_file_that_alters_the_text_is_encoded_exactly_without_that(
    change: Change, huggingface_json: dict[str, Any]
) -> None:
    plain, tokenizer = opened(huggingface_json), opened(huggingface_json, change)
    data = "Return Self, É".encode()
    assert not tokenizer.lossless
    assert tokenizer.encode(data).tolist() == plain.encode(data).tolist()
    ids, lost = tokenizer.encode_normalised(data)
    own = data.decode().lower().encode() if change is lower_case else b" " + data
    assert tokenizer.decode(ids) == tokenizer.normalised(data) == own
    assert lost == (4 if change is lower_case else 1)
    assert tokenizer.published_bytes(data).sum() == len(own)


def test_bytes_that_are_not_utf8_are_lost_in_the_files_own_encoding(huggingface_json: dict[str, Any]) -> None:
    tokenizer = opened(huggingface_json)
    assert tokenizer.encode_normalised(b"ab\xff\xfecd")[1] == 2
    assert tokenizer.normalised(b"a\xff") == "a\ufffd".encode()
    assert tokenizer.decode(tokenizer.encode(b"ab\xff\xfecd")) == b"ab\xff\xfecd"


def test_dropout_truncation_and_padding_are_left_out(huggingface_json: dict[str, Any]) -> None:
    def alter(spec: dict[str, Any]) -> None:
        spec["model"]["dropout"] = 0.9
        spec["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
        spec["padding"] = {
            "strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>",
        }  # fmt: skip

    data = b"return self.value in the same way"
    tokenizer = opened(huggingface_json, alter)
    for ids in (tokenizer.encode(data), tokenizer.encode_normalised(data)[0]):
        assert ids.tolist() == opened(huggingface_json).encode(data).tolist()


def test_a_file_of_the_type_of_llama_3(huggingface_json: dict[str, Any], library: list[bytes]) -> None:
    """A pattern of its own before the byte-level step, and whole words looked up before merging."""

    def change(spec: dict[str, Any]) -> None:
        split = {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}|\\p{L}+"}, "behavior": "Isolated", "invert": False}
        step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, step]}
        spec["model"]["ignore_merges"] = True

    tokenizer = opened(huggingface_json, change)
    for data in library[:4]:
        assert tokenizer.decode(tokenizer.encode(data)) == data
    assert tokenizer.lossless and len(tokenizer.encode(b"self" * 3)) < 12
    assert tokenizer.encode(b"<|endoftext|>").tolist() != [tokenizer.bos]


# ---- the token that starts a document ------------------------------------------------------------------------------


def template(name: str) -> Change:
    """A post-processor that puts a token first, as in Llama 3."""

    def change(spec: dict[str, Any]) -> None:
        spec["post_processor"] = {
            "type": "Sequence",
            "processors": [
                {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
                {
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {name: {"id": name, "ids": [400], "tokens": [name]}},
                },
            ],
        }

    return change


def roberta(spec: dict[str, Any]) -> None:
    spec["post_processor"] = {
        "type": "RobertaProcessing",
        "sep": ["<|endoftext|>", 0],
        "cls": ["<x>", 400],
        "trim_offsets": True,
        "add_prefix_space": False,
    }


def test_bos_is_what_the_file_puts_first_or_has_a_known_name(huggingface_json: dict[str, Any]) -> None:
    added = add_token("<x>", special=True)
    assert opened(huggingface_json, added).bos == 0
    assert opened(huggingface_json, added, template("<x>")).bos == 400
    assert opened(huggingface_json, added, roberta).bos == 400
    assert opened(huggingface_json, add_token("<s>", special=True)).bos == 400
    assert opened(huggingface_json, lambda spec: spec["added_tokens"].clear()).bos == -1


# ---- what is not supported -----------------------------------------------------------------------------------------


def test_other_models_are_refused_with_what_they_are(huggingface_json: dict[str, Any]) -> None:
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    changes: dict[str, Change] = {
        "model WordPiece": lambda spec: spec["model"].update(type="WordPiece"),
        "model Unigram": lambda spec: spec["model"].update(type="Unigram", vocab=[["<unk>", 0.0]]),
        "pre_tokenizer Metaspace": lambda spec: spec.update(pre_tokenizer=metaspace),
        "pre_tokenizer none": lambda spec: spec.update(pre_tokenizer=None),
        "decoder BPEDecoder": lambda spec: spec.update(decoder={"type": "BPEDecoder", "suffix": "</w>"}),
        "end_of_word_suffix": lambda spec: spec["model"].update(end_of_word_suffix="</w>"),
    }
    for message, change in changes.items():
        with pytest.raises(BitgolfError, match=message) as error:
            opened(huggingface_json, change)
        assert error.value.where == "here" and "SentencePiece" in error.value.hint


def test_what_is_no_tokenizer_is_refused(huggingface_json: dict[str, Any]) -> None:
    text = json.dumps(huggingface_json).encode()
    for data in (b"{", b"{}", b'{"model": 3}', b'{"model": {}}', text[:-5], b"{" * 100_000):
        with pytest.raises(CorruptFileError, match=r"not a tokenizer\.json") as error:
            tokenizer_from_bytes(data, where="here")
        assert error.value.where == "here"
    with pytest.raises(CorruptFileError, match="not byte-level"):
        opened(huggingface_json, lambda spec: spec["model"]["vocab"].update({"a b": 400}))


def test_a_byte_without_a_token_is_no_byte_fallback(huggingface_json: dict[str, Any]) -> None:
    tokenizer = opened(
        huggingface_json,
        lambda spec: spec["model"]["vocab"].pop("þ"),
        lambda spec: spec["model"].update(merges=[pair for pair in spec["model"]["merges"] if "þ" not in str(pair)]),
    )
    assert not tokenizer.byte_fallback and not tokenizer.lossless
    with pytest.raises(BitgolfError, match="no byte fallback"):
        tokenizer.encode(b"a")


def test_the_missing_package_is_named(huggingface_json: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(BitgolfError, match="needs the package tokenizers") as error:
        opened(huggingface_json)
    assert "bitgolf[tokenizers]" in error.value.hint


@settings(max_examples=examples(60), deadline=None)
@given(at=st.floats(0, 1), value=st.integers(32, 126))
def test_a_character_changed_is_refused_or_still_exact(huggingface_json: dict[str, Any], at: float, value: int) -> None:
    changed = bytearray(json.dumps(huggingface_json).encode())
    changed[int(at * (len(changed) - 1))] = value
    data = "def f(x): return 'é' <|endoftext|>".encode() + b"\xff"
    try:
        tokenizer = tokenizer_from_bytes(bytes(changed))
        ids = tokenizer.encode(data)
    except BitgolfError:
        return
    assert tokenizer.decode(ids) == data and tokenizer.count_bytes(ids).sum() == len(data)
    assert np.array(ids).max() < tokenizer.vocab
