"""Scope of a patch with a gate, found by running it: on which prompts do its edits act?

A scope cell (`lks.evaluation.scope_decisions`) builds a scope indicator and makes no edits, so it must know
the methods that have one. Here the edits are already made, and every method with a gate is queried in the
same way: its hooks record at prefill for whom they act (`lks.models.prefill.FIRED`, `FOUND`). Both modules
produce the same kind of decisions. Time per prompt is not measured, because in a forward pass the decision
cannot be separated from the rest.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from random import Random
from typing import Literal, get_args

import torch

from lks.data.synthetic_text import sentences
from lks.editing.patch import Patch
from lks.edits import Case, Edit, spellings_of
from lks.evaluation.scope_decisions import PROBES, ScopeQuery, asked
from lks.evaluation.scope_prompts import carrier
from lks.models.frozen_prefix import batches
from lks.models.generation import positions
from lks.models.lm import LM
from lks.models.prefill import FIRED, FOUND
from lks.results.decisions import Decision
from lks.scope.misspellings import Form, written

Variant = Literal["typo", "case", "alias"]
FORMS: dict[Variant, Form] = {"typo": "one typo", "case": "lower case"}
ROOM = 4
"""One part in `ROOM` of the model's window is left free for what in-context methods put in front: longer
prompts are left out, whatever the method."""


def decide(
    lm: LM,
    patch: Patch,
    cases: Sequence[Case],
    spare: Iterable[Case],
    draw: int,
    probes: int = PROBES,
    seed: int = 0,
) -> list[Decision]:
    """Decide on each of many prompts, set by set.

    The prompts are those of `lks.evaluation.scope_decisions.asked`, `variants` and plain text. If a patch
    does not report which subject it acts for, a decision that fired has found "", and "" is expected for all
    prompts: such a patch has a rate of firing but no rate of right subjects.

    Args:
        lm: the unedited model; unchanged on return.
        patch: patch made from the edits of `cases`.
        cases: the edited cases of one draw.
        spare: cases that are not edited.
        draw: number of the draw, stored with each decision.
        probes: maximum number of prompts of each set.
        seed: random seed of the variants.

    Returns:
        The decisions; none for a patch without a gate.
    """
    if acted(lm, patch, [case.edit.prompt for case in cases[:1]]) is None:
        return []
    plain = [ScopeQuery("plain", i, "", text) for i, text in enumerate(sentences(probes))]
    prompts = _fitting(lm, [*asked(cases, spare, probes), *variants(cases, probes, seed), *plain])
    fired = acted(lm, patch, [one.prompt for one in prompts]) or []
    if not patch.subjects:
        prompts = [replace(one, subject_expected="") for one in prompts]
    return [
        Decision(draw, one.probe_set, one.probe, one.case_id, found, one.subject_expected)
        for one, found in zip(prompts, fired, strict=True)
    ]


def variants(edited: Sequence[Case], probes: int, seed: int = 0) -> list[ScopeQuery]:
    """Return edit prompts with their subject respelt, at most `probes` of each kind.

    The kinds are "typo" (one letter inserted, left out, wrong or swapped with the next), "case" (lower case)
    and "alias" (one of the aliases, chosen at random). They depend on the case and the seed alone. A spelling
    that equals, up to case, a name of another edited subject is left out, and so are prompts that do not
    mention their subject exactly once.
    """
    owners: dict[str, set[str]] = {}
    for subject, names in spellings_of([case.edit for case in edited]).items():
        for name in names:
            owners.setdefault(name.casefold(), set()).add(subject)
    found: list[ScopeQuery] = []
    for kind in get_args(Variant):
        own = islice(_respelt(edited, kind, owners, seed), probes)
        found += [
            ScopeQuery(kind, i, case.case_id, text, case.edit.subject) for i, (case, text) in enumerate(own)
        ]
    return found


def _respelt(
    edited: Sequence[Case], kind: Variant, owners: dict[str, set[str]], seed: int
) -> Iterator[tuple[Case, str]]:
    """Yield each case with its edit prompt in another spelling, where there is one."""
    for case in edited:
        subject, frame = case.edit.subject, carrier(case.edit.prompt, case.edit.subject)
        name = _spelling(case.edit, kind, Random(f"{seed} {kind} {case.case_id}"))
        if frame and name and owners.get(name.casefold(), {subject}) == {subject}:
            yield case, frame.replace("{}", name, 1)


def _spelling(edit: Edit, kind: Variant, rng: Random) -> str | None:
    """Return another spelling of the subject, or None if it has none."""
    if kind in FORMS:
        return written(FORMS[kind], edit.subject, rng)
    aliases = [alias for alias in edit.aliases if alias.casefold() != edit.subject.casefold()]
    return rng.choice(aliases) if aliases else None


def _fitting(lm: LM, prompts: Sequence[ScopeQuery]) -> list[ScopeQuery]:
    """Return the prompts that leave enough room in the model's window."""
    window = int(lm.model.config.max_position_embeddings)
    encoded = lm.encode([one.prompt for one in prompts], [""] * len(prompts))
    return [one for one, row in zip(prompts, encoded, strict=True) if len(row.ids) <= window - window // ROOM]


@torch.no_grad()
def acted(
    lm: LM, patch: Patch, prompts: Sequence[str], batch_tokens: int = 4096
) -> list[tuple[str, ...]] | None:
    """Return for each prompt the subject that the edits act for.

    The entry is () where they do not act; the result is None for a patch without a gate. Prompts whose text
    alone proves that nothing acts (`Patch.fires`) are not run.

    Args:
        lm: the unedited model.
        patch: patch whose edits are tested.
        prompts: texts without answers.
        batch_tokens: padded tokens per forward pass.
    """
    may = patch.fires(lm, prompts)
    places = [i for i in range(len(prompts)) if may is None or may[i]]
    rows = [encoded.ids for encoded in lm.encode([prompts[i] for i in places], [""] * len(places))]
    grows, names = patch.context_tokens(lm), patch.subjects
    found: list[tuple[str, ...]] = [()] * len(prompts)
    with patch.applied(lm):
        for chosen in batches([len(row) + grows for row in rows], batch_tokens):
            ids, mask = lm.pad([rows[i] for i in chosen], "left")
            out = lm.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions(mask),
                use_cache=True,
                logits_to_keep=1,
            )
            told = getattr(out.past_key_values, "row_state", {})
            if FIRED not in told:
                return None
            fired = told[FIRED].tolist()
            subjects = told[FOUND].tolist() if names else [-1] * len(chosen)
            for i, acts, subject in zip(chosen, fired, subjects, strict=True):
                found[places[i]] = (names[subject] if subject >= 0 else "",) if acts else ()
    return found
