"""Self-extracting scripts, as `bitgolf export` writes them: compressed source as a text of base 124, and its decoder.

A script is counted in bytes of UTF-8. A string literal between three quotes may have any character of one byte but the
null, the carriage return, the quote and the backslash: 124 characters, 6.95 bits for each byte, where base 85 has 6.4.
"""

from __future__ import annotations

import re

import brotli

NAME = "train_gpt"
"""File name in tracebacks of the code that a script executes."""
LARGEST_CODE = 8_000_000
"""Bytes of code that a script may have."""
_UNUSABLE = {13: 125, 39: 126, 92: 127}
"""Characters that stand for others: carriage return, quote and backslash are written as the last three."""
DIGITS, BYTES = 38, 33
"""Digits and bytes of a block: 124 ** 38 is a little more than 256 ** 33."""
_SCRIPT = """\
import brotli,linecache
d,n,i=b'',0,0
for c in'''{digits}''':
 n,i=n*124+(ord(c)-1 if c<'}}'else b'\\x0c&['[ord(c)-125]),i+1
 if i%38<1:d+=n.to_bytes(33);n=0
d=brotli.decompress(d[:{size}]).decode()
linecache.cache['train_gpt']=0,None,d.splitlines(True),''
exec(compile(d,'train_gpt','exec'))
"""
_BEFORE, _AFTER_DIGITS, _AFTER_SIZE = (re.escape(part.format()) for part in re.split(r"\{digits\}|\{size\}", _SCRIPT))
_PATTERN = re.compile(f"{_BEFORE}([^\0\r'\\\\]*){_AFTER_DIGITS}([0-9]{{1,7}}){_AFTER_SIZE}", re.DOTALL)


def self_extracting(code: str) -> str:
    """Return a script that executes `code`, and knows its lines (Triton compiles a function from its source)."""
    data = brotli.compress(code.encode(), quality=11, lgwin=24, mode=brotli.MODE_TEXT)
    return _SCRIPT.format(digits=_digits(data), size=len(data))


def extracted(script: str) -> str | None:
    """Return the code of a self-extracting script without executing anything, None for other scripts."""
    match = _PATTERN.fullmatch(script)
    if not match or not match[1] or len(match[1]) > LARGEST_CODE:
        return None
    try:
        data = _bytes(match[1])[: int(match[2])]
        return brotli.Decompressor().process(data, output_buffer_limit=LARGEST_CODE).decode("utf-8", "replace")
    except (OverflowError, brotli.error):
        return None


def _digits(data: bytes) -> str:
    found = list[int]()
    for start in range(0, len(data), BYTES):
        value = int.from_bytes(data[start : start + BYTES].ljust(BYTES, b"\0"))
        found += [value // 124**place % 124 + 1 for place in reversed(range(DIGITS))]
    return "".join(chr(_UNUSABLE.get(character, character)) for character in found)


def _bytes(digits: str) -> bytes:
    written = {character: meant for meant, character in _UNUSABLE.items()}
    values = [written.get(character, character) - 1 for character in map(ord, digits)]
    blocks = (values[start : start + DIGITS] for start in range(0, len(values), DIGITS))
    return b"".join(
        sum(digit * 124**place for place, digit in enumerate(reversed(block))).to_bytes(BYTES) for block in blocks
    )
