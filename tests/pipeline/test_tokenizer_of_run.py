"""The tokenizer of a run: what the stage `prepare` logs of it, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError
from bitgolf.pipeline.data import prepare, prepare_inputs
from bitgolf.pipeline.state import Run
from bitgolf.report.log import RunLog
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.trainers import SentencePieceBPE, TokenizerFile
from helpers.toy import toy_recipe

SENTENCE = "some words, and some more of them "


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[[Spec[Any], str], str]:
    """A function that runs the stage `prepare` on documents with a text, and returns the log."""

    def run_prepare(tokens: Spec[Any], text: str) -> str:
        for i in range(30):
            (tmp_path / f"{i}.txt").write_text(f"{i} {text}")
        recipe, folder = toy_recipe(steps=1).set("tokens", tokens), tmp_path / "run"
        run = Run(recipe, folder, RunLog(folder, quiet=True), text_paths=(f"{tmp_path}/*.txt",))
        try:
            prepare(run)
        finally:
            run.log.close()
        return (folder / "run.log").read_text()

    return run_prepare


def test_a_lowered_character_coverage_is_in_the_log(prepared: Callable[[Spec[Any], str], str]) -> None:
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 200)))
    log = prepared(part(SentencePieceBPE, vocab=300), many)
    assert "tokenizer: character coverage lowered from 0.9995 to" in log and "become byte tokens" in log
    assert "warning" not in log


def test_text_of_few_characters_gives_no_warning(prepared: Callable[[Spec[Any], str], str]) -> None:
    log = prepared(part(SentencePieceBPE, vocab=300), SENTENCE * 9)
    assert "character coverage" not in log and "warning" not in log


def test_other_contents_of_a_tokenizer_file_are_other_inputs(tmp_path: Path) -> None:
    path, keys = tmp_path / "a.model", []
    (tmp_path / "a.txt").write_text(SENTENCE)
    for text in (SENTENCE, SENTENCE, SENTENCE.upper()):
        path.write_bytes(SentencePieceBPE(vocab=280).train([text.encode() * 30]))
        recipe = toy_recipe(steps=1).set("tokens", part(TokenizerFile, path=str(path), vocab=280))
        keys.append(prepare_inputs(Run(recipe, tmp_path, RunLog(quiet=True), text_paths=(str(tmp_path / "a.txt"),))))
    assert keys[0] == keys[1] != keys[2]


def test_a_tokenizer_without_a_space_piece_is_refused_unless_forced(
    prepared: Callable[[Spec[Any], str], str], tmp_path: Path
) -> None:
    path = tmp_path / "odd.model"
    proto = SentencePieceBPE(vocab=300).train([SENTENCE.encode() * 30])
    path.write_bytes(proto.replace(b"\x0a\x03\xe2\x96\x81", b"\x0a\x03\xe2\x96\x82"))
    tokens = part(TokenizerFile, path=str(path), vocab=tokenizer_from_bytes(proto).vocab)
    with pytest.raises(BitgolfError, match="no piece for a space") as error:
        prepared(tokens, SENTENCE)
    assert "tokens.force=true" in error.value.hint and error.value.exit_code == 1
    assert not (tmp_path / "run" / "data").exists()
    assert "warning message:tokenizer:_there_is_no_piece_for_a_space" in prepared(tokens.set("force", True), SENTENCE)
