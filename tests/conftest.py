"""Fixtures and settings of all tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bitgolf.pipeline import code_size
from helpers.examples import register_profiles

register_profiles()
gc.disable()  # until all tests are collected: imports make few objects that could be freed
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported: kernels then run on the CPU, slowly
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with slow tests first: a slow test that starts last would leave the other processes without work."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Exclude imported objects from later garbage collections, which would walk over all of them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def no_sync() -> Iterator[None]:
    """Files are not synced to the disk: each sync takes milliseconds, and no test survives a power failure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


MEASURE_SCRIPT = code_size._stored_or_measured
SCRIPT_BYTES = 44_000


@pytest.fixture(scope="session", autouse=True)
def assumed_script_sizes() -> Iterator[None]:
    """To make a script takes seconds: its size is taken for granted, except in modules that use `real_script_sizes`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_size, "_stored_or_measured", lambda *_: SCRIPT_BYTES)
        yield


@pytest.fixture(scope="module")
def real_script_sizes() -> Iterator[None]:
    """The sizes of scripts are measured, as outside of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_size, "_stored_or_measured", MEASURE_SCRIPT)
        patch.setattr(code_size, "_KNOWN", {})
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout; tests that need it skip where it is missing."""
    if not (SHARED / "oracles").is_dir():
        pytest.skip("needs the folder `shared` (oracles, data) beside the checkout")
    return SHARED
