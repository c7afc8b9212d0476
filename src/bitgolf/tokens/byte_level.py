"""The alphabet of byte-level byte-pair encoding: a printable character for each byte.

Bytes 33 to 126, 161 to 172 and 174 to 255 are the characters of those code points. The other 68 bytes are, in order,
the characters U+0100 to U+0143. Source: Radford et al. 2019 (GPT-2).
"""

from __future__ import annotations

from bitgolf.errors import CorruptFileError

_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_OF_CHARACTER = {
    **{chr(byte): byte for byte in _PRINTABLE},
    **{chr(256 + i): byte for i, byte in enumerate(_OTHERS)},
}


def bytes_of_piece(piece: str) -> bytes:
    """Return the bytes that a piece in this alphabet stands for. Raises `CorruptFileError` for another character."""
    try:
        return bytes(map(BYTE_OF_CHARACTER.__getitem__, piece))
    except KeyError as error:
        raise CorruptFileError(
            f"the piece {piece!r} is not byte-level: the character {error.args[0]!r} stands for no byte"
        ) from error
