"""The record of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitgolf.report import environment
from bitgolf.report.environment import collect_environment, cpu_name


@pytest.mark.parametrize(
    ("contents", "name"),
    [
        ("processor\t: 0\nmodel name\t: A CPU @ 2.60GHz\nflags\t: a b\nprocessor\t: 1\nmodel name\t: Another\n", "A CPU @ 2.60GHz"),
        ("Processor\t:\nModel\t\t: A Board Rev 1.4\n", "A Board Rev 1.4"),
        ("model name\t: A CPU \udcff\n", "A CPU \ufffd"),
    ],
)  # fmt: skip
def test_the_cpu_is_named_as_linux_names_it(
    contents: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_bytes(contents.encode(errors="surrogateescape"))
    monkeypatch.setattr(environment, "CPU_FILE", tmp_path / "cpuinfo")
    assert cpu_name() == name


def test_the_system_names_the_cpu_where_there_is_no_such_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "CPU_FILE", tmp_path / "missing")
    monkeypatch.setattr("platform.processor", lambda: "arm")
    assert cpu_name() == collect_environment()["cpu_name"] == "arm"
