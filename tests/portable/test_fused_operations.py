"""The machine code of the kernels, for this processor and for another kind, has no fused multiplication and addition."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import pytest

from bitgolf.portable.kernels import compiled_kernels
from bitgolf.portable.mode import portable_arithmetic

FUSED = re.compile(r"\bv?fn?m(add|sub)\w*|\bfml[as]\b")
ARM = "aarch64-unknown-linux-gnu"


def test_the_pattern_finds_fused_operations() -> None:
    assert all(
        FUSED.search(line) for line in ("\tvfmadd231ps %zmm0", "\tfmadd d0, d1", "\tfmla v0.4s, v1", "\tfnmsub s0")
    )
    assert not any(FUSED.search(line) for line in ("\tvmulps %zmm0", "\tfmul v0.4s", "\tfadd d0", "\tfmov d0"))


def for_arm(code: str, machine: Any) -> str:
    """Intermediate code for another target. Intrinsics of x86, which count references, become plain functions."""
    code = re.sub(r"(?m)^target (datalayout|triple) = .*$", "", code)
    code = re.sub(r"@llvm\.x86\.", "@x86.", code).replace(" immarg", "")
    return f'target datalayout = "{machine.target_data}"\ntarget triple = "{ARM}"\n{code}'


@pytest.mark.exhaustive
def test_machine_code_has_no_fused_operations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code for ARM, whose plain vectors have fused operations, is made from the same intermediate code.

    That code is only translated, not run.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled_kernels.cache_clear()
    try:
        with portable_arithmetic():  # its self-test calls, and so compiles, every kernel
            kernels: Any = compiled_kernels()
    finally:
        compiled_kernels.cache_clear()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(ARM).create_target_machine(
        cpu="neoverse-n1", opt=3, reloc="pic", codemodel="small"
    )
    for name, kernel in zip(kernels._fields, kernels, strict=True):
        assert kernel.signatures, name
        for signature in kernel.signatures:
            translated = machine.emit_assembly(llvm.parse_assembly(for_arm(kernel.inspect_llvm(signature), machine)))
            assert re.search(r"\bfmul\b", translated) or name in (
                "sum",
                "cumulative_sum",
                "square_root",
                "inverse_root",
            ), name
            for assembly in (kernel.inspect_asm(signature), translated):
                assert not (found := FUSED.search(assembly)), (name, found)
