"""The Triton kernels compile to machine code for Hopper without a GPU. The compiler rejects more than the interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED_MEMORY = 227 * 1024
"""Shared memory that a program may use on Hopper, in bytes."""

PROGRAM = """
import json
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from bitgolf.kernels import triton_kernels
from bitgolf.kernels.exclusive_attention_gate import TOKENS_PER_PROGRAM
from bitgolf.kernels.squared_leaky_relu_mlp import LAUNCH_OPTIONS, TILE, TMA_TILE
from bitgolf.kernels.softcapped_cross_entropy import COLUMNS_PER_BLOCK

ALIGNED = [["tt.divisibility", 16]]

def build(name, types, constants, **options):
    kernel = getattr(triton_kernels, name)
    signature = dict(zip(kernel.arg_names, types)) | dict.fromkeys(constants, "constexpr")
    aligned = {(i,): ALIGNED for i, x in enumerate(signature.values()) if x[0] == "*" or x == "i32"}
    made = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned),
        target=GPUTarget("cuda", 90, 32),
        options=options,
    )
    return {"shared": made.metadata.shared, "code": len(made.asm["cubin"]), "ptx": made.asm["ptx"]}

made = {}
for even in (False, True):
    size = {"BLOCK": COLUMNS_PER_BLOCK, "EVEN": even}
    for z in ("*bf16", "*fp32"):
        losses, sizes = ["*fp32", "*fp32"], ["i32", "i32", "fp32", "fp32"]
        made[f"ce forward {z} {even}"] = build("softcapped_cross_entropy_forward", [z, "*i64", *losses, *sizes], size)
        made[f"ce backward {z} {even}"] = build("softcapped_cross_entropy_backward", ["*fp32", z, "*i64", "*fp32", z, *sizes], size)
    for backward in (False, True):
        inner = {"ak": 1, ("bn" if backward else "bk"): 1, "BACKWARD": backward, "EVEN": even}
        types = ["*bf16"] * 4 + ["i32"] * 7 + ["fp32"]
        made[f"mlp {backward} {even}"] = build("matmul_squared_leaky_relu", types, inner | TILE, **LAUNCH_OPTIONS)
rows, columns, inner = TMA_TILE.values()
for backward in (False, True):
    b, half = [inner, columns] if backward else [columns, inner], [rows, columns // 2]
    types = [f"tensordesc<bf16{shape}>" for shape in ([rows, inner], b, half, half)] + ["i32"] * 3 + ["fp32"]
    constants = TMA_TILE | {"BACKWARD": backward, "PROGRAMS": 132}
    made[f"tma {backward}"] = build("matmul_squared_leaky_relu_tma", types, constants, **LAUNCH_OPTIONS)
heads = {"G": 4, "R": 2, "D": 64, "WIDE": 64, "B": TOKENS_PER_PROGRAM}
rest = ["i32", "i32", "fp32", "fp32", "fp32"]
for name, tensors in (("forward", 4), ("backward", 7)):
    made[f"gate {name}"] = build(f"exclusive_attention_gate_{name}", ["*bf16"] * tensors + rest, heads, num_warps=8)
print(json.dumps(made))
"""


@pytest.mark.slow
def test_every_kernel_compiles_for_hopper_and_fits_its_shared_memory(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="needs Triton: pip install -e '.[dev]' brings it on Linux")
    own = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", PROGRAM], env=own, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    made = json.loads(ran.stdout)
    assert len(made) == 16
    assert all("wgmma" in made[name]["ptx"] for name in made if name.startswith(("mlp", "tma")))
    assert all("cp.async.bulk.tensor" in made[name]["ptx"] for name in made if name.startswith("tma"))
    assert all(kernel["code"] > 0 and kernel["shared"] <= SHARED_MEMORY for kernel in made.values())
