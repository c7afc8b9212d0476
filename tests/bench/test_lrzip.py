"""`lrzip_bytes`: None if lrzip is not installed, the size if it is, an error if it fails."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from lrzip import lrzip_bytes

from bitgolf.errors import BitgolfError


@pytest.mark.skipif(shutil.which("lrzip") is None, reason="needs lrzip: apt-get install lrzip")
def test_the_installed_lrzip_compresses() -> None:
    size = lrzip_bytes(b"the same words " * 2000)
    assert size is not None and 0 < size < 3000


def test_lrzip_is_asked_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert lrzip_bytes(b"abc") is None
    program = tmp_path / "lrzip"
    script = '#!/bin/sh\n[ "$1 $2 $3 $4 $5" = "-q -z -L 9 -o" ] || exit 3\n{ read -r line < "$7"; echo "$line$line"; } > "$6"\n'
    program.write_text(script)
    program.chmod(0o755)
    assert lrzip_bytes(b"abc\n") == 7
    program.write_text('#!/bin/sh\necho no space >&2\n: > "$6"\nexit 1\n')
    with pytest.raises(BitgolfError, match="no space"):
        lrzip_bytes(b"abc")
