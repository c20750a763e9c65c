"""Facts of subjects that are not edited, asked to see whether they stay: locality beyond the edited subjects.

A dataset's own locality prompts nearly all ask another fact of the *edited* subject. Three strata more, from records that no draw edits:
- same_relation: the edit's own question about another subject (ROME's neighbourhood, scored as NS too);
- near_name: a question about the subject whose name is most like the edited one;
- far: a question of another relation about somebody whose name is not near.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from rapidfuzz import fuzz, process

from lks.edits import Case, Edit, Probe
from lks.scope.naming import put

STRATA = ("same_relation", "near_name", "far")
NEAR = 75.0
"""Two names are near from this indel similarity (rapidfuzz `ratio`, 0 to 100) on."""
PROBES = 200
"""At most so many probes of each stratum and draw."""


def relation(edit: Edit) -> str:
    """The question without its subject: what records of one relation and phrasing share."""
    return put(edit.prompt, edit.subject, "\N{WHITE SQUARE}")


def with_neighbours(
    cases: Sequence[Case], spare: Sequence[Case], seed: int, limit: int = PROBES
) -> list[Case]:
    """The same cases with probes of kind "neighbour" behind their own.

    Args:
        cases: one draw's; the first `limit` of them get probes.
        spare: records that may be asked about; those of an edited subject are not, nor those whose true answer is not known.
        seed: of what is chosen.
        limit: cases that get probes.
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
    """The neighbour's question and true answer; the case's target is the rival where the question is the same."""
    rival = edit.target if stratum == "same_relation" and edit.target != neighbour.ground_truth else ""
    return Probe("neighbour", number, neighbour.prompt, neighbour.ground_truth, stratum=stratum, rival=rival)


def _by_relation(edits: Sequence[Edit]) -> defaultdict[str, list[Edit]]:
    found: defaultdict[str, list[Edit]] = defaultdict(list)
    for edit in edits:
        found[relation(edit)].append(edit)
    return found


def _nearest(names: Sequence[str], others: Sequence[str]) -> list[tuple[int, float]]:
    """For each name the place of the most similar other and how similar it is."""
    scores = process.cdist(names, others, scorer=fuzz.ratio, dtype=np.float32)
    best = scores.argmax(1)
    return [(int(i), float(row[i])) for i, row in zip(best, scores, strict=True)]


def _chosen(
    rng: random.Random, edits: Sequence[Edit], wanted: Callable[[Edit], bool], tries: int = 20
) -> Edit | None:
    """One of the edits at random that is wanted; None after some tries."""
    for _ in range(tries if edits else 0):
        edit = rng.choice(edits)
        if wanted(edit):
            return edit
    return None
