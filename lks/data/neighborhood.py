"""Probes about subjects that are not edited: locality beyond the edited subjects.

Nearly all of a dataset's own locality prompts ask another fact of the *edited* subject. This module adds
three strata, from records that no draw edits, to measure whether their facts stay:
- same_relation: the edit's own question about another subject (ROME's neighborhood, scored as NS too);
- near_name: a question about the subject whose name is most similar to the edited one;
- far: a question of another relation about a subject whose name is not similar.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from rapidfuzz import fuzz, process

from lks.edits import Case, Edit, Probe
from lks.scope.naming import frame

STRATA = ("same_relation", "near_name", "far")
NEAR = 75.0
"""Minimum indel similarity (rapidfuzz `ratio`, 0 to 100) from which two names are near."""
PROBES = 200
"""Maximum number of probes per stratum and draw."""


def relation(edit: Edit) -> str:
    """Return the question without its subject, which records of one relation and phrasing share."""
    return frame(edit.prompt, edit.subject) or edit.prompt


def with_neighbours(
    cases: Sequence[Case], spare: Sequence[Case], seed: int, limit: int = PROBES
) -> list[Case]:
    """Return the same cases with probes of kind "neighbour" added after their own.

    Args:
        cases: the cases of one draw; the first `limit` of them get probes.
        spare: records that may be asked about, except those of an edited subject or without a known true
            answer.
        seed: random seed for the choice of neighbours.
        limit: maximum number of cases that get probes.
    """
    edited = {case.edit.subject for case in cases}
    others = [case.edit for case in spare if case.edit.subject not in edited and case.edit.ground_truth]
    if not others:
        return list(cases)
    rng = random.Random(f"neighbours {seed}")
    alike = _by_relation(others)
    asked = cases[:limit]
    near = _nearest([case.edit.subject for case in asked], [edit.subject for edit in others])
    made = []
    for case, (nearest, score) in zip(asked, near, strict=True):
        own = relation(case.edit)
        same = _chosen(rng, alike[own], lambda _: True)
        close = others[nearest] if score >= NEAR else None
        far = _chosen(
            rng,
            others,
            lambda edit, own=own, close=close: relation(edit) != own and edit is not close,  # type: ignore[misc]
        )
        found = [
            (stratum, edit)
            for stratum, edit in zip(STRATA, (same, close, far), strict=True)
            if edit is not None
        ]
        probes = [_probe(number, stratum, edit, case.edit) for number, (stratum, edit) in enumerate(found)]
        made.append(replace(case, probes=(*case.probes, *probes)))
    return [*made, *cases[limit:]]


def _probe(number: int, stratum: str, neighbour: Edit, edit: Edit) -> Probe:
    """Build the probe from the neighbour's question and true answer.

    The case's target is the rival if the question is the same.
    """
    rival = edit.target if stratum == "same_relation" and edit.target != neighbour.ground_truth else ""
    return Probe("neighbour", number, neighbour.prompt, neighbour.ground_truth, stratum=stratum, rival=rival)


def _by_relation(edits: Sequence[Edit]) -> defaultdict[str, list[Edit]]:
    """Group edits by relation."""
    found: defaultdict[str, list[Edit]] = defaultdict(list)
    for edit in edits:
        found[relation(edit)].append(edit)
    return found


def _nearest(names: Sequence[str], others: Sequence[str]) -> list[tuple[int, float]]:
    """Return for each name the index of the most similar other name and their similarity."""
    scores = process.cdist(names, others, scorer=fuzz.ratio, dtype=np.float32)
    best = scores.argmax(1)
    return [(int(i), float(row[i])) for i, row in zip(best, scores, strict=True)]


def _chosen(
    rng: random.Random, edits: Sequence[Edit], wanted: Callable[[Edit], bool], tries: int = 20
) -> Edit | None:
    """Draw random edits until one is wanted; return None after `tries` attempts."""
    for _ in range(tries if edits else 0):
        edit = rng.choice(edits)
        if wanted(edit):
            return edit
    return None
