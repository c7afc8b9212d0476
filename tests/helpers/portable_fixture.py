"""A model of exact weights, a text coded with it, and what portable arithmetic makes of them on every machine.

As a program (`python -m helpers.portable_fixture THREADS`) it checks the fixture on this machine, with as many threads,
each of which gets work, and prints the vector instructions of torch.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import part
from bitgolf.model.lm import LM
from bitgolf.portable import threads
from bitgolf.portable.mode import portable_arithmetic
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.coding.coded_text import TextCodec
from bitgolf.score.coding.compress import compress, decompress
from bitgolf.score.methods import SlidingScoring
from bitgolf.tokens.byte_tokenizer import ByteTokenizer
from helpers.toy import toy_model

CODED, FORMER, FORMER_LORA = (
    Path(__file__).parents[1] / "portable" / name for name in ("coded.bgz", "former.bgz", "former_lora.bgz")
)
"""Files of format 5 and of format 4, made on a machine with AVX-512; the last one with `LORA`, in native arithmetic."""
LOGITS = "1c1393e908062a50"
"""The first 16 hexadecimal digits of the SHA-256 of `fixture_logits`."""
DOCUMENTS = [b"The same bits on every machine.", b"", bytes(range(0, 256, 7)), "é 😀".encode() * 3]
METHOD = part(SlidingScoring, window=24, stride=12)
LORA = part(DocumentLoRA, window=24, stride=8, rows=3, rank=2, lr=0.05, target_modules=("head", "q"))


def fixture_codec() -> TextCodec:
    """A toy model whose weights are multiples of 2^-14 from an integer recurrence, for bytes."""
    tokenizer = ByteTokenizer()
    model = toy_model()(BuildContext(vocab=tokenizer.vocab, bos=tokenizer.bos)).eval()
    start = 1
    with torch.no_grad():
        for parameter in model.parameters():
            indices = torch.arange(start, start + parameter.numel())
            values = (indices * indices * 40_503 + indices * 977) % 16_381 - 8190
            parameter.copy_(values.float().reshape(parameter.shape) / 16_384)
            start += 7919
    return TextCodec(model, tokenizer, b"portable", ())


def coded(codec: TextCodec, rows: int = 3) -> bytes:
    """The documents, compressed in portable arithmetic."""
    documents = codec.tokenizer.encode_documents(DOCUMENTS)
    return compress(codec, documents, method=METHOD, rows=rows, portable=True).data


def fixture_logits(model: LM) -> Tensor:
    """Logits (2, 20, V) of fixed tokens, in the current context."""
    return model((torch.arange(40) * 37 % 250 + 4).reshape(2, 20))


def digest(x: Tensor) -> str:
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()[:16]


def check() -> None:
    """Raise `AssertionError` unless this machine decompresses the fixture and computes its bytes and its logits."""
    codec = fixture_codec()
    with portable_arithmetic():
        assert digest(fixture_logits(codec.model)) == LOGITS
    assert coded(codec) == CODED.read_bytes()
    assert decompress(codec, CODED.read_bytes()) == DOCUMENTS == decompress(codec, FORMER.read_bytes())


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    threads.LEAST_WORK = 0
    check()
    print(torch.backends.cpu.get_cpu_capability())
