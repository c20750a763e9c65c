"""Tools for patches: merge two, compare two, or remove a subject."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from lks.editing.patch import Patch, cannot_merge
from lks.errors import UserError, unknown

if TYPE_CHECKING:
    from lks.data.fact_validation import UserFact
    from workbench.patch_folder import SavedEdits

Prefer = Literal["first", "last"]


@dataclass(frozen=True, slots=True)
class Removed:
    """Result of removing a subject.

    Attributes:
        edited: the edits without it.
        facts: number of facts removed.
        still: prompts about it on which other subjects' edits still act, because they contain their names.
    """

    edited: "SavedEdits"
    facts: int
    still: tuple[str, ...]


def remove(edited: "SavedEdits", subject: str, folder: Path | None = None) -> Removed:
    """Remove a subject's knowledge blocks and names; nothing else changes, and no model is needed.

    Args:
        edited: the edits.
        subject: subject whose facts are removed.
        folder: folder of the patch, for the advice in an error.

    Raises:
        UserError: the patch has no such subject, or its kind does not keep subjects apart.
    """
    patch = edited.patch
    left = patch.without([subject])
    if left is None:
        model = edited.origin.base.name if edited.origin else "MODEL"
        raise UserError(
            f"The edits of a patch of kind {patch.kind!r} are not kept apart by subject, "
            "so one cannot be removed. "
            f"Edit again without it: lks edit --update --without {subject!r} --model {model} "
            f"--out {folder or 'DIR'}"
        )
    if subject not in patch.subjects:
        raise unknown("subject", subject, patch.subjects)
    gone = [fact for fact in edited.facts.facts if fact.subject == subject] if edited.facts else []
    facts = None if edited.facts is None else edited.facts.without([subject])
    origin = (
        None
        if edited.origin is None
        else replace(edited.origin, history=(*edited.origin.history, f"removed {subject}"))
    )
    still = tuple(prompt for prompt in (subject, *(fact.prompt for fact in gone)) if left.names_in(prompt))
    return Removed(replace(edited, patch=left, facts=facts, origin=origin), len(gone), still)


def merge(first: "SavedEdits", last: "SavedEdits", prefer: Prefer | None = None) -> "SavedEdits":
    """Merge the edits of two patches into one.

    Knowledge blocks are put side by side. Changes of weights are added up, which has the effect of applying
    both; the edits may disturb each other, so measure the result.

    Args:
        first: a patch.
        last: another one for the same model.
        prefer: patch whose facts are kept for subjects that both have; None refuses such patches.

    Raises:
        UserError: the patches are for different models, asked in different forms, of kinds that cannot be
            merged, or have a subject in common.
    """
    if first.origin and last.origin and not first.origin.base.is_that_of(last.origin.base):
        raise UserError(f"The patches are for different models: {first.origin.base} and {last.origin.base}.")
    if first.form != last.form:
        raise UserError(
            f"The patches were made with --form {first.form} and --form {last.form}, but a patch has one. "
            "Edit again with the facts of both."
        )
    one, two = first.patch, last.patch
    if one.kind != two.kind:
        raise cannot_merge(one, two)
    if one.without(()) is None or two.without(()) is None:
        return _merged_whole(first, last, prefer)
    return _merged_by_subject(first, last, prefer)


def _merged_by_subject(first: "SavedEdits", last: "SavedEdits", prefer: Prefer | None) -> "SavedEdits":
    """Merge patches that keep subjects apart; one of them gives way where both have a subject."""
    theirs = set(last.patch.subjects)
    common = [name for name in first.patch.subjects if name in theirs]
    if common and prefer is None:
        raise UserError(
            f"{_some(common)} in both patches. Choose whose facts count with --prefer first or --prefer last."
        )
    if prefer == "first":
        last = _fewer(last, common)
    else:
        first = _fewer(first, common)
    return _together(first, last, first.patch.merged_with(last.patch))


def _merged_whole(first: "SavedEdits", last: "SavedEdits", prefer: Prefer | None) -> "SavedEdits":
    """Merge patches whose edits cannot be told apart."""
    if prefer is not None:
        raise UserError(
            "--prefer needs patches that keep subjects apart; changes of weights do not. "
            "Edit again with the facts of both."
        )
    theirs = {fact.key: fact for fact in _facts(first)}
    clash = [
        fact.subject for fact in _facts(last) if fact.key in theirs and theirs[fact.key].target != fact.target
    ]
    if clash:
        raise UserError(
            f"{_some(clash)} in both patches with different targets; changes of weights cannot be separated. "
            "Edit again with all facts."
        )
    return _together(first, last, first.patch.merged_with(last.patch))


def _together(first: "SavedEdits", last: "SavedEdits", patch: Patch) -> "SavedEdits":
    """Return a merged patch with its facts, without the hypernetwork, which belongs to a single training."""
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
    """Difference between two patches.

    Attributes:
        only_first, only_second: facts, or for patches without facts their subjects, that only one of them
            has.
        changed: facts on the same subject and prompt with another target: (prompt, first target, second
            target).
        norms: tensor or subject, and Frobenius norm in the first, in the second, and of the difference; None
            if one patch lacks it.
    """

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    changed: tuple[tuple[str, str, str], ...]
    norms: tuple[tuple[str, float | None, float | None, float | None], ...]


def difference(first: "SavedEdits", second: "SavedEdits") -> PatchDifference:
    """Compare the facts and the tensors of two patches."""
    one, two = _listed(first), _listed(second)
    changed = tuple((name, one[name], two[name]) for name in one if name in two and one[name] != two[name])
    norms = tuple(_norm(name, a, b) for name, a, b in _pairs(first.patch, second.patch))
    return PatchDifference(
        tuple(n for n in one if n not in two), tuple(n for n in two if n not in one), changed, norms
    )


def _listed(edited: "SavedEdits") -> dict[str, str]:
    """Return the targets of all facts by prompt, or the subjects if facts are not known."""
    facts = _facts(edited)
    return {fact.prompt: fact.target for fact in facts} if facts else dict.fromkeys(edited.patch.subjects, "")


def _pairs(one: Patch, two: Patch) -> Iterable[tuple[str, Tensor | None, Tensor | None]]:
    """Pair what is compared (`Patch.parts`) by name."""
    parts = [one.parts(), two.parts()]
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
    """Return edits without some subjects, in a patch that keeps them apart."""
    patch = edited.patch.without(subjects) or edited.patch
    return replace(edited, patch=patch, facts=edited.facts.without(subjects) if edited.facts else None)


def _facts(edited: "SavedEdits") -> "tuple[UserFact, ...]":
    return edited.facts.facts if edited.facts else ()


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3]) + (
        f" and {len(names) - 3} more" if len(names) > 3 else ""
    )
    return f"{shown} {'is' if len(names) == 1 else 'are'}"
