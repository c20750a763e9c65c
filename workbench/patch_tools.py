"""Looking after patches: what is in one, two made one, two compared, a subject taken out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lks.editing.patch import Patch, WeightPatch
from lks.errors import UserError, unknown
from lks.method.replacer import KnowledgeBlockPatch

if TYPE_CHECKING:
    from lks.data.user_facts import Facts, UserFact
    from workbench.patch_folder import SavedEdits

Prefer = Literal["first", "last"]


def without_subjects(patch: KnowledgeBlockPatch, subjects: Iterable[str]) -> KnowledgeBlockPatch:
    """The patch without some subjects, whether it has them or not; the others' part is as before, bit for bit."""
    gone = set(subjects)
    return patch.only([number for number, name in enumerate(patch.subjects) if name not in gone])


def joined(patches: Sequence[KnowledgeBlockPatch]) -> KnowledgeBlockPatch:
    """Patches of different subjects as one.

    Raises:
        UserError: they do not replace in the same way, or have gates, whose thresholds belong to their own subjects.
    """
    filled = [patch for patch in patches if patch.names] or list(patches[:1])
    first = filled[0]
    for other in filled[1:]:
        for what in ("blocks", "positions", "scope_kind", "mentions"):
            if getattr(first, what) != getattr(other, what):
                raise UserError(
                    f"The patches differ in {what}: {getattr(first, what)} and {getattr(other, what)}. Edit again with all facts."
                )
        if first.gate is not None or other.gate is not None:
            raise UserError(
                "Patches with a gate cannot be joined: its threshold is that of its own subjects. Edit again with all facts."
            )
    if len(filled) == 1:
        return first
    table = torch.cat([patch.table.cpu().float() for patch in filled], 1)
    names = [name for patch in filled for name in patch.names]
    starts = accumulate((len(patch.names) for patch in filled), initial=0)
    loose = [start + subject for start, patch in zip(starts, filled, strict=False) for subject in patch.loose]
    return KnowledgeBlockPatch(
        names, table, first.blocks, first.positions, first.scope_kind, first.mentions, loose=loose
    )


@dataclass(frozen=True, slots=True)
class Removed:
    """What taking a subject out has done.

    Attributes:
        edited: the edits without it.
        facts: how many facts went.
        still: prompts about it on which other subjects' edits still act, because their names are in them.
    """

    edited: "SavedEdits"
    facts: int
    still: tuple[str, ...]


def remove(edited: "SavedEdits", subject: str, folder: Path | None = None) -> Removed:
    """Take a subject out: its knowledge blocks and its names go, nothing else changes. No model is needed.

    Args:
        edited: the edits.
        subject: whose facts go.
        folder: of the patch, for the advice in an error.

    Raises:
        UserError: the patch has no such subject, or is of a kind whose edits cannot be told apart.
    """
    patch = edited.patch
    if not isinstance(patch, KnowledgeBlockPatch):
        model = edited.origin.base.name if edited.origin else "MODEL"
        raise UserError(
            f"The edits of a patch of kind {patch.kind!r} are not kept apart by subject, so one cannot be taken out. "
            f"Edit again without it: lks edit --update --without {subject!r} --model {model} --out {folder or 'DIR'}"
        )
    if subject not in patch.subjects:
        raise unknown("subject", subject, patch.subjects)
    left = without_subjects(patch, [subject])
    gone = [fact for fact in edited.facts.facts if fact.subject == subject] if edited.facts else []
    facts = None if edited.facts is None else edited.facts.without([subject])
    origin = (
        None
        if edited.origin is None
        else replace(edited.origin, history=(*edited.origin.history, f"removed {subject}"))
    )
    still = tuple(prompt for prompt in (subject, *(fact.prompt for fact in gone)) if left.scope.find(prompt))
    return Removed(replace(edited, patch=left, facts=facts, origin=origin), len(gone), still)


def merge(first: "SavedEdits", last: "SavedEdits", prefer: Prefer | None = None) -> "SavedEdits":
    """Both patches' edits as one patch.

    Knowledge blocks are put side by side. Changes of weights are added up, which is what applying both means; the edits may disturb each
    other, so measure the result.

    Args:
        first: a patch.
        last: another one for the same model.
        prefer: whose facts count where both have a subject; None refuses that.

    Raises:
        UserError: they are for different models or asked in different forms, of kinds that do not go together, or have a subject in common.
    """
    if first.origin and last.origin and not first.origin.base.is_that_of(last.origin.base):
        raise UserError(f"The patches are for different models: {first.origin.base} and {last.origin.base}.")
    if first.form != last.form:
        raise UserError(
            f"The patches were made with --form {first.form} and --form {last.form}, a patch has one. Edit again with the facts of both."
        )
    one, two = first.patch, last.patch
    if isinstance(one, KnowledgeBlockPatch) and isinstance(two, KnowledgeBlockPatch):
        return _merged_blocks(first, last, one, two, prefer)
    if isinstance(one, WeightPatch) and isinstance(two, WeightPatch):
        return _merged_weights(first, last, one, two, prefer)
    raise UserError(
        f"A patch of kind {one.kind!r} and one of kind {two.kind!r} cannot be merged. Edit again with the facts of both."
    )


def _merged_blocks(
    first: "SavedEdits",
    last: "SavedEdits",
    one: KnowledgeBlockPatch,
    two: KnowledgeBlockPatch,
    prefer: Prefer | None,
) -> "SavedEdits":
    common = [name for name in one.subjects if name in set(two.subjects)]
    if common and prefer is None:
        raise UserError(
            f"{_some(common)} in both patches. Say whose facts count with --prefer first or --prefer last."
        )
    if prefer == "first":
        two, last = without_subjects(two, common), _fewer(last, common)
    elif common:
        one, first = without_subjects(one, common), _fewer(first, common)
    return _together(first, last, joined([one, two]))


def _merged_weights(
    first: "SavedEdits", last: "SavedEdits", one: WeightPatch, two: WeightPatch, prefer: Prefer | None
) -> "SavedEdits":
    if prefer is not None:
        raise UserError(
            "--prefer needs patches that keep subjects apart; changes of weights do not. Edit again with the facts of both."
        )
    theirs = {fact.key: fact for fact in _facts(first)}
    clash = [
        fact.subject for fact in _facts(last) if fact.key in theirs and theirs[fact.key].target != fact.target
    ]
    if clash:
        raise UserError(
            f"{_some(clash)} in both patches with different targets; changes of weights cannot be told apart. Edit again with all facts."
        )
    deltas: dict[str, Tensor] = {}
    for name in sorted({*one.names, *two.names}):
        having = [patch for patch in (one, two) if name in patch.names]
        if any(name in patch.deltas for patch in having):
            deltas[name] = torch.stack([patch.difference(name) for patch in having]).sum(0)
        else:
            deltas[f"{name}.left"] = torch.cat([patch.deltas[f"{name}.left"] for patch in having], 1)
            deltas[f"{name}.right"] = torch.cat([patch.deltas[f"{name}.right"] for patch in having], 0)
    return _together(first, last, WeightPatch(deltas))


def _together(first: "SavedEdits", last: "SavedEdits", patch: Patch) -> "SavedEdits":
    """A merged patch with its facts; a hypernetwork belongs to one training and goes."""
    facts = first.facts.joined(last.facts) if first.facts and last.facts else None
    origin = first.origin
    if origin is not None and last.origin is not None:
        history = (
            *origin.history,
            f"merged with {len(_facts(last))} facts: {'; '.join(last.origin.history)}",
        )
        origin = replace(origin, seconds=origin.seconds + last.origin.seconds, history=history)
        if origin.method != last.origin.method:
            origin = replace(origin, title=f"{origin.title} + {last.origin.title}")
    return replace(first, patch=patch, facts=facts, origin=origin, learnt={})


@dataclass(frozen=True, slots=True)
class PatchDifference:
    """How two patches differ.

    Attributes:
        only_first, only_second: facts, or for patches without facts their subjects, that one of them has.
        changed: facts on the same subject and prompt with another target: (prompt, first target, second target).
        norms: tensor or subject -> Frobenius norm in the first, in the second, and of the difference; None where one lacks it.
    """

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    changed: tuple[tuple[str, str, str], ...]
    norms: tuple[tuple[str, float | None, float | None, float | None], ...]


def difference(first: "SavedEdits", second: "SavedEdits") -> PatchDifference:
    """What one patch has and the other has not, and how far apart their tensors are."""
    one, two = _listed(first), _listed(second)
    changed = tuple((name, one[name], two[name]) for name in one if name in two and one[name] != two[name])
    norms = tuple(_norm(name, a, b) for name, a, b in _pairs(first.patch, second.patch))
    return PatchDifference(
        tuple(n for n in one if n not in two), tuple(n for n in two if n not in one), changed, norms
    )


def _listed(edited: "SavedEdits") -> dict[str, str]:
    """Prompt -> target of all facts, or the subjects where facts are not known."""
    facts = _facts(edited)
    return {fact.prompt: fact.target for fact in facts} if facts else dict.fromkeys(edited.patch.subjects, "")


def _pairs(one: Patch, two: Patch) -> Iterable[tuple[str, Tensor | None, Tensor | None]]:
    """What is compared: changes of weights by parameter, knowledge blocks by subject, anything else by tensor."""
    parts = []
    for patch in (one, two):
        if isinstance(patch, WeightPatch):
            parts.append({name: patch.difference(name) for name in patch.names})
        elif isinstance(patch, KnowledgeBlockPatch):
            parts.append({name: patch.table[:, number] for number, name in enumerate(patch.subjects)})
        else:
            parts.append(patch.tensors())
    return [(name, parts[0].get(name), parts[1].get(name)) for name in dict.fromkeys([*parts[0], *parts[1]])]


def _norm(
    name: str, one: Tensor | None, two: Tensor | None
) -> tuple[str, float | None, float | None, float | None]:
    sizes = [None if tensor is None else float(tensor.float().norm()) for tensor in (one, two)]
    apart = (
        None
        if one is None or two is None or one.shape != two.shape
        else float((one.float() - two.float()).norm())
    )
    return name, sizes[0], sizes[1], apart


def _fewer(edited: "SavedEdits", subjects: Sequence[str]) -> "SavedEdits":
    facts: Facts | None = edited.facts
    return edited if facts is None else replace(edited, facts=facts.without(subjects))


def _facts(edited: "SavedEdits") -> "tuple[UserFact, ...]":
    return edited.facts.facts if edited.facts else ()


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3]) + (
        f" and {len(names) - 3} more" if len(names) > 3 else ""
    )
    return f"{shown} {'is' if len(names) == 1 else 'are'}"
