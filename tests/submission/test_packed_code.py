"""Packed scripts are unpacked as Python would, without being executed, in bounded memory."""

from __future__ import annotations

import base64
import bz2
import gzip
import lzma
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.submission import packed_code
from bitgolf.submission.packed_code import MOST_LAYERS, unpack
from bitgolf.submission.source import Source

CODE = "import os\nvalue = os.environ.get('A', '1')\nprint(value, 'ü')\n" * 5
RAW = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]
WRAPPERS = {
    "lzma": ("import lzma as L,base64 as B\nexec(L.decompress(B.b85decode({data!r})))", lzma.compress, base64.b85encode),
    "raw lzma": (
        'import lzma,base64\nexec(lzma.decompress(base64.b85decode({data!r}),format=lzma.FORMAT_RAW,'
        'filters=[{{"id":lzma.FILTER_LZMA2,"dict_size":1048576}}]))',
        lambda data: lzma.compress(data, lzma.FORMAT_RAW, filters=RAW),
        base64.b85encode,
    ),
    "zlib in names": (
        "from zlib import decompress\nfrom base64 import b64decode as d\ncode={data!r}\nexec(decompress(d(code)).decode())",
        zlib.compress,
        base64.b64encode,
    ),
    "brotli": ("import brotli,base64\nexec(compile(brotli.decompress(base64.a85decode({data!r})),'x','exec'))", brotli.compress, base64.a85encode),
    "bz2": ("import bz2,binascii\nexec(bz2.decompress(binascii.unhexlify({data!r})).decode('utf-8'))", bz2.compress, lambda d: d.hex().encode()),
    "gzip": ("import gzip,base64\nexec(gzip.decompress(base64.b64decode({data!r})))", gzip.compress, base64.b64encode),
    "zstd": ("import zstandard,base64\nexec(zstandard.decompress(base64.b64decode({data!r})))", zstandard.compress, base64.b64encode),
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPERS)
def test_it_is_what_python_executes(name: str) -> None:
    wrapper, compress, encode = WRAPPERS[name]
    script = Source("a.py", wrapper.format(data=encode(compress(CODE.encode())).decode()))
    executed: list[str | bytes] = []
    exec(script.text, {"exec": executed.append, "compile": lambda code, *_: code})
    expected = executed[0] if isinstance(executed[0], str) else executed[0].decode()
    assert [layer.text for layer in unpack(script)] == [script.text, expected]
    assert script.is_packed and expected == CODE


@pytest.mark.parametrize(
    "compress", [zlib.compress, lzma.compress, bz2.compress, brotli.compress], ids=["zlib", "lzma", "bz2", "brotli"]
)
def test_a_bomb_is_not_unpacked(compress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_code, "LARGEST_CODE", 10_000)
    module = {zlib.compress: "zlib", lzma.compress: "lzma", bz2.compress: "bz2", brotli.compress: "brotli"}[compress]
    for size, layers in ((9_999, 2), (10_001, 1)):
        data = base64.b64encode(compress(b"#" * size)).decode()
        script = f"import {module},base64\nexec({module}.decompress(base64.b64decode({data!r})))"
        assert len(unpack(Source("a.py", script))) == layers


def test_a_large_dictionary_is_refused() -> None:
    data = base64.b64encode(lzma.compress(b"1", lzma.FORMAT_RAW, filters=RAW)).decode()
    filters = '[{"id":lzma.FILTER_LZMA2,"dict_size":4000000000}]'
    script = f"import lzma,base64\nexec(lzma.decompress(base64.b64decode({data!r}),format=lzma.FORMAT_RAW,filters={filters}))"
    assert len(unpack(Source("a.py", script))) == 1


def test_layers_are_bounded() -> None:
    text = "print(1)"
    for _ in range(8):
        text = f"import base64\nexec(base64.b64decode({base64.b64encode(text.encode()).decode()!r}))"
    assert len(unpack(Source("a.py", text))) == MOST_LAYERS + 1


@given(st.text(alphabet="exec(b64decode)'\"+ =\nimport base64,zlib.[]{}:1", max_size=120))
def test_no_script_makes_it_fail(text: str) -> None:
    unpack(Source("a.py", text))
    unpack(Source("a.py", f"import base64,zlib\nexec({text})"))
