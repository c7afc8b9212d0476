"""Rules on sizes: code and model together are at most 16,000,000 bytes, decimal, for the worst seed."""

from __future__ import annotations

import ast
import re

from bitgolf.submission.finding import Found, Record, RecordRule
from bitgolf.submission.folder import CLAIMS
from bitgolf.submission.log_figures import LogFigures, LoggedSize

CAP, BINARY_CAP = 16_000_000, 16 * 1024 * 1024
PACKED_TOTAL = re.compile(r"total.*(?:int\d|quant|zlib|zstd|brotli|lzma|lrzip|ternary|pergroup|compressed|packed)")
"""Labels of the size of a submission after compression; that of the float weights is no size of a submission."""
CODE = re.compile(r"code.*size|size.*code|code bytes")
SMALL_CHANGE = 0.02
"""Share by which counted code may differ from the script before it is reported."""


def over_cap(record: Record) -> Found:
    """The claimed size is over the cap."""
    claims = record.claims
    claim = claims.total_bytes if claims else None
    if claims and claim and record.folder.is_timed and CAP < claim.value < 4 * CAP:
        yield CLAIMS, claims.line_of(claim.key), _over(f"{claim.key} is", int(claim.value))


def seed_over_cap(record: Record) -> Found:
    """The submission that a log measured is over the cap."""
    if not record.folder.is_timed:
        return
    for log in record.claimed_logs:
        total = packed_total(record, log)
        if total and total.size > CAP:
            yield log.name, total.line, _over("The run measured", total.size)


def not_the_worst_seed(record: Record) -> Found:
    """The claimed size is less than the largest that the logs measured."""
    claims = record.claims
    claim = claims.total_bytes if claims else None
    totals = [(total, log) for log in record.claimed_logs if (total := packed_total(record, log))]
    if claims and claim and totals and "mean" not in claim.key:
        total, log = max(totals, key=lambda pair: pair[0].size)
        if claim.value < total.size:
            evidence = f"{claim.key} is {int(claim.value):,}, and {log.name} measured {total.size:,} bytes."
            yield CLAIMS, claims.line_of(claim.key), evidence


def counted_code_differs(record: Record) -> Found:
    """The counted code is smaller than the script that is executed, packed or not."""
    claims = record.claims
    claim = claims.code_bytes if claims else None
    outermost = record.folder.script_files
    if not claims or not claim or len(outermost) != 1:
        return
    size = len(outermost[0].text.encode())
    if claim.value < size * (1 - SMALL_CHANGE):
        evidence = f"{claim.key} is {int(claim.value):,}, and {outermost[0].name} has {size:,} bytes as it is executed."
        yield CLAIMS, claims.line_of(claim.key), evidence


def binary_megabytes(record: Record) -> Found:
    """The script compares with 16 MiB, which is 16,777,216 bytes."""
    for script in record.folder.code:
        for node in script.all(ast.Compare):
            if size := _binary_limit(node):
                yield script.name, node.lineno, f"A size is compared with {size:,} bytes, more than the cap of {CAP:,}."


def packed_total(record: Record, log: LogFigures) -> LoggedSize | None:
    """Return the smallest size of a whole packed submission in a log; scripts measure several forms of it.

    Where the run counted its code unpacked and the folder has a smaller script, the script's size is counted instead.
    """
    totals = [size for size in log.sizes if PACKED_TOTAL.search(size.label) and size.size > CAP // 4]
    if not totals:
        return None
    total = min(totals, key=lambda size: size.size)
    counted = [size.size for size in log.sizes if CODE.search(size.label)]
    scripts = [len(script.text.encode()) for script in record.folder.script_files]
    saved = max(0, min(counted) - min(scripts)) if counted and scripts else 0
    return total._replace(size=total.size - saved)


def _over(subject: str, size: int) -> str:
    inside = ", under 16 MiB but not under 16 MB" if size <= BINARY_CAP else ""
    return f"{subject} {size:,} bytes, {size - CAP:,} over the cap of {CAP:,}{inside}."


def _binary_limit(node: ast.Compare) -> int:
    """Return the limit in a comparison such as `size <= 16 * 1024 * 1024`, 0 if there is none."""
    for side in (node.left, *node.comparators):
        value = _product(side)
        if value is not None and CAP < value <= BINARY_CAP:
            return int(value)
    return 0


def _product(node: ast.expr) -> float | None:
    """Return the value of a product or power of numbers, None for anything else."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return float(value)
        case ast.BinOp(op=ast.Mult() | ast.LShift() | ast.Pow()):
            left, right = _product(node.left), _product(node.right)
            if left is None or right is None or right > 1e9 or (not isinstance(node.op, ast.Mult) and right > 60):
                return None
            if isinstance(node.op, ast.Mult):
                return left * right
            return left * 2**right if isinstance(node.op, ast.LShift) else left**right
    return None


RULES = (
    RecordRule("over-cap", "error", over_cap),
    RecordRule("seed-over-cap", "error", seed_over_cap),
    RecordRule("not-the-worst-seed", "warning", not_the_worst_seed),
    RecordRule("counted-code-differs", "warning", counted_code_differs),
    RecordRule("binary-megabytes", "warning", binary_megabytes),
)
