"""The order of the runs of a round: which may run at the same time, so that nothing is done twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bitgolf.config.spec import Spec
from bitgolf.files import json_digest
from bitgolf.recipes.identity import training_key
from bitgolf.sweeps.factors import BASE
from bitgolf.sweeps.folder import RunUnit
from bitgolf.sweeps.gates import Gate


def waves(units: Sequence[RunUnit], gates: Sequence[Spec[Gate]]) -> Iterator[list[RunUnit]]:
    """Divide runs into groups; those of a group may run at the same time, and need all groups before.

    Gates that compare: the base first, since it is what the others are compared with. Any gate: one seed of all variants
    after the other, since a variant with a run that was stopped gets no further seeds. Runs with the same training: the
    first alone, since the others take its training over. So the runs do not depend on how many of them run at a time.
    """
    compares = any(gate().compares for gate in gates)
    groups = dict[Any, list[RunUnit]]()
    for unit in units:
        first = compares and unit.variant == BASE
        groups.setdefault(-1 if first else unit.seed if gates else 0, []).append(unit)
    trained = set[str]()
    for group in groups.values():
        leaders, followers = list[RunUnit](), list[RunUnit]()
        for unit in group:
            (followers if (key := training_identity(unit)) in trained else leaders).append(unit)
            trained.add(key)
        yield from filter(None, (leaders, followers))


def training_identity(unit: RunUnit) -> str:
    """What determines a training before any data is prepared. Runs with equal ones share it."""
    return json_digest([text_identity(unit), training_key(unit.recipe), unit.seed])


def text_identity(unit: RunUnit) -> str:
    """What determines the preparation of a text."""
    whole = unit.recipe.to_json()
    return json_digest([whole[name] for name in ("text", "tokens", "held_out")])
