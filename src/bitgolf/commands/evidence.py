"""The commands `bundle` and `verify`: evidence for a result in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from bitgolf.commands.artifacts import restore
from bitgolf.commands.tables import table
from bitgolf.errors import UsageError
from bitgolf.evidence.checks import CheckedFact, check_bundle
from bitgolf.evidence.collect import collect_parts
from bitgolf.evidence.container import read_bundle, write_bundle
from bitgolf.evidence.signature import SUFFIX, check_signer, sign_file, signer_of
from bitgolf.files import file_digest, write_bytes


class BundleResult(msgspec.Struct, frozen=True):
    """The keys of `bundle --json`. parts: name -> bytes. signature: path, "" if it is not signed."""

    bundle: str
    bytes: int
    digest: str
    parts: dict[str, int]
    signature: str


class VerifyResult(msgspec.Struct, frozen=True):
    """The keys of `verify --json`. signer: key of the signature, "" without one. passes: whether no fact failed."""

    bundle: str
    signature: Literal["none", "checked"]
    signer: str
    facts: list[CheckedFact]
    passes: bool


def make_bundle(
    run: Path, target: Path, *, proof: Path | None, record: Path | None, key: Path | None, force: bool
) -> BundleResult:
    """Write the bundle of a run, and its signature beside it if there is a key. An existing file needs `force`."""
    if target.exists() and not force:
        raise UsageError("the file exists", where=str(target), hint="choose another name, or add --force")
    parts = collect_parts(run, proof, record)
    data = write_bundle(parts)
    write_bytes(target, data)
    signature = str(sign_file(target, key)) if key else ""
    return BundleResult(str(target), len(data), file_digest(target), {n: len(p) for n, p in parts.items()}, signature)


def verify_bundle(path: Path, *, groups: int, challenge: str, signers: Path | None, identity: str) -> VerifyResult:
    """Check everything of a bundle that can be checked offline. Raises `CorruptFileError` if a byte of it changed.

    groups: of the proof that are restored, 0 for all. signers: an `allowed_signers` file of ssh-keygen, in which
    `identity` must have signed.
    """
    parts = read_bundle(path)
    signed = Path(str(path) + SUFFIX).exists()
    if signers and not signed:
        raise UsageError(
            "there is no signature", where=str(path) + SUFFIX, hint="leave --signers out to check the rest"
        )
    if signers:
        check_signer(path, signers, identity)
    signer = signer_of(path) if signed else ""
    facts = check_bundle(parts, restore, groups=groups, challenge=challenge)
    passes = not any(fact.state == "failed" for fact in facts)
    return VerifyResult(str(path), "checked" if signed else "none", signer, facts, passes)


def bundle_lines(result: BundleResult) -> str:
    """Return what was written as text."""
    signed = f", signed: {result.signature}" if result.signature else ""
    return f"{result.bundle}: {result.bytes:,} bytes, {len(result.parts)} parts, digest {result.digest}{signed}"


def verify_lines(result: VerifyResult) -> str:
    """Return the facts as text, failures first."""
    order = {"failed": 0, "checked": 1, "claimed": 2}
    rows = [(f.state, f.name, f.evidence) for f in sorted(result.facts, key=lambda fact: order[fact.state])]
    signed = f"signed by {result.signer}" if result.signer else "not signed"
    counts = {state: sum(fact.state == state for fact in result.facts) for state in order}
    verdict = "nothing that can be checked here is wrong" if result.passes else "the bundle contradicts itself"
    summary = (
        f"{verdict}: {counts['checked']} checked, {counts['claimed']} only claimed, {counts['failed']} failed; {signed}"
    )
    return "\n".join([table(f"Facts in {result.bundle}", ("", "fact", "evidence"), rows, text_columns=3), "", summary])
