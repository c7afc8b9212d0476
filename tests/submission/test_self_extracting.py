"""Self-extracting scripts: they execute the code that was packed, and `extracted` reads it without executing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.submission.self_extracting import extracted, self_extracting


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_the_code_is_executed_and_can_be_read(text: str) -> None:
    code = f"text = {text!r}\n"
    script, found = self_extracting(code), dict[str, Any]()
    assert extracted(script) == code
    exec(compile(script.encode(), "script", "exec"), found)
    assert found["text"] == text


@pytest.mark.parametrize("old, new", [("import", "import os,"), ("exec", "print"), ("33", "32"), (".decode()", "")])
def test_a_script_with_another_decoder_is_not_extracted(old: str, new: str) -> None:
    assert extracted(self_extracting("x = 1").replace(old, new)) is None


def test_damaged_digits_are_no_code() -> None:
    script = self_extracting("x = 1")
    at = script.index("'''") + 3
    assert extracted(script[:at] + "\x7f" * 38 + script[at + 38 :]) is None
    assert extracted(script[:at] + script[at + 38 :]) is None
