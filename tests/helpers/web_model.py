"""The programs of pages, run in Node.js."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bitgolf.model.decoding.incremental import IncrementalDecoder
from bitgolf.model.lm import LM
from bitgolf.tokens.byte_tokenizer import ByteTokenizer
from bitgolf.web.integers import IntegerMatrix
from bitgolf.web.page import model_script
from bitgolf.web.program import StepProgram, compile_recording, compile_step
from bitgolf.web.recording import recording
from bitgolf.web.tokenizer import tokenizer_data
from bitgolf.web.webassembly import webassembly_module
from helpers.javascript import Node

TOKENIZER = tokenizer_data(ByteTokenizer())


def run_program(node: Node, program: StepProgram, body: str, *, kernels: bool = True) -> Any:
    """What a function body returns that is executed after the constants of a program have been loaded."""
    script, constants = model_script(program, TOKENIZER, webassembly_module() if kernels else None)
    return node.run(f"{script}\nawait loadConstants({json.dumps(constants)});\n{body}")


def page_logits(
    node: Node,
    model: LM,
    ids: Sequence[int],
    window: int,
    integers: Mapping[str, IntegerMatrix] | None = None,
    *,
    kernels: bool = True,
) -> Tensor:
    """Logits (n, V) after each of n tokens, the first of which is BOS, as a page computes them."""
    program = compile_step(model, window, integers or {})
    body = f"""
const rows = [];
for (const token of {json.dumps(list(ids))}) {{
  await append(token, async () => {{}});
  logits();
  rows.push(Array.from(F.subarray(places.logits, places.logits + places.vocab)));
}}
return rows;"""
    return torch.tensor(run_program(node, program, body, kernels=kernels))


def decoded_logits(model: LM, ids: Sequence[int], window: int) -> Tensor:
    """Logits (n, V) after each of n tokens, the first of which is BOS, as `generate` computes them."""
    decoder = IncrementalDecoder(model, 1, window, max(1, window // 2))
    rows = [decoder.logits[0]]
    for token in ids[1:]:
        decoder.step(torch.tensor([token]))
        rows.append(decoder.logits[0])
    return torch.stack(rows)


def page_results(
    node: Node, function: Callable[..., Tensor], inputs: Sequence[Tensor], *, kernels: bool = True
) -> Tensor:
    """What a page computes for `function(*inputs)`, in the type and shape of the result."""
    with recording(nn.Module()) as record:
        variables = [record.variable(i, tuple(x.shape), x.dtype) for i, x in enumerate(inputs)]
        result = function(*variables).clone(memory_format=torch.contiguous_format)
    names = {f"x{i}": variable for i, variable in enumerate(variables)} | {"y": result}
    program = compile_recording(record, {"compute": record.operations}, names, {}, spare=64)
    array = {torch.float32: "F", torch.bool: "B"}
    sets = [
        f"{array.get(x.dtype, 'D')}.set({json.dumps(x.flatten().tolist())}, places.x{i});" for i, x in enumerate(inputs)
    ]
    letter = array.get(result.dtype, "D")
    end = f"return Array.from({letter}.subarray(places.y, places.y + {result.numel()}));"
    values = run_program(node, program, "\n".join([*sets, "compute();", end]), kernels=kernels)
    return torch.tensor(values).to(result.dtype).reshape(result.shape)
