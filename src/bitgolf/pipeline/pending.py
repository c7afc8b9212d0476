"""Results that a stage has computed to decide whether it may run, and has not written yet."""

from __future__ import annotations

from dataclasses import dataclass

from bitgolf.data.manifest import Manifest
from bitgolf.pack.streams import EncodedTensor
from bitgolf.training.checkpoint import Checkpoint


@dataclass
class PendingResults:
    """What the check of a stage has computed and its work will write; None before and after.

    manifest: of the new data. same_data: the new data is that which the later stages read, so their outcomes are kept.
    checkpoint: the last one, to be averaged. codes: of all tensors. artifact: its bytes.
    """

    manifest: Manifest | None = None
    same_data: bool = False
    checkpoint: Checkpoint | None = None
    codes: dict[str, EncodedTensor] | None = None
    artifact: bytes | None = None
