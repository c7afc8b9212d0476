"""The products of a page as a WebAssembly module: LLVM, which comes with numba, compiles `*.ll` for 32-bit WebAssembly.

LLVM writes an object file. It is a module already, as the functions call nothing and need no addresses of a linker: they
only have to be exported. Its memory is imported (`env.__linear_memory`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

TRIPLE, FEATURES = "wasm32-unknown-unknown", "+simd128"
DOT_KERNELS = {
    "dot_i8": ("i8", "sitofp i8 %stored to float"),
    "dot_i16": ("i16", "sitofp i16 %stored to float"),
    "dot_f32": ("float", "fadd float %stored, 0.0"),
}
"""Function -> type of the stored numbers, and how one becomes a float."""
WEIGHT_KERNEL = "weight_rows"
EXPORTS, CODE_SECTIONS, CUSTOM = 7, (9, 10, 11, 12), 0
"""Numbers of sections: exports come before elements, code and data. Custom ones are for linkers."""


@cache
def webassembly_module() -> bytes | None:
    """The module with the functions of `DOT_KERNELS` and `WEIGHT_KERNEL`; None if LLVM has no such target."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        target = llvm.Target.from_triple(TRIPLE)
    except RuntimeError:
        return None
    machine = target.create_target_machine(opt=3, features=FEATURES)
    module = llvm.parse_assembly(_intermediate_code())
    module.data_layout = str(machine.target_data)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = True
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    return export_functions(machine.emit_object(module), [*DOT_KERNELS, WEIGHT_KERNEL])


def _intermediate_code() -> str:
    folder = Path(__file__).parent
    template = (folder / "dot_rows.ll").read_text(encoding="utf-8")
    dots = [
        template.replace("dot_NAME", name).replace("ELEMENT", element).replace("CONVERT", convert)
        for name, (element, convert) in DOT_KERNELS.items()
    ]
    weights = (folder / "weight_rows.ll").read_text(encoding="utf-8")
    return "\n".join([f'target triple = "{TRIPLE}"', *dots, weights])


def export_functions(object_file: bytes, names: Sequence[str]) -> bytes:
    """The module of an object file, with its functions 0, 1, … exported under these names, without custom sections."""
    entries = [_number(len(n)) + n.encode() + b"\0" + _number(i) for i, n in enumerate(names)]
    exports = _section(EXPORTS, _number(len(entries)) + b"".join(entries))
    found = [(kind, body) for kind, body in _sections(object_file) if kind != CUSTOM]
    before = [_section(kind, body) for kind, body in found if kind not in CODE_SECTIONS]
    after = [_section(kind, body) for kind, body in found if kind in CODE_SECTIONS]
    return b"".join([object_file[:8], *before, exports, *after])


def _sections(module: bytes) -> Iterator[tuple[int, bytes]]:
    at = 8  # after the magic number and the version
    while at < len(module):
        kind, shift, size = module[at], 0, 0
        while True:
            at += 1
            size |= (module[at] & 127) << shift
            shift += 7
            if module[at] < 128:
                break
        yield kind, module[at + 1 : at + 1 + size]
        at += 1 + size


def _section(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + _number(len(body)) + body


def _number(n: int) -> bytes:
    """An unsigned integer in LEB128."""
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + _number(n >> 7)
