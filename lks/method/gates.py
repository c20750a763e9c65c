"""Gates of knowledge blocks: their kinds, fitting one to edits, and reading one from a saved patch."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lks.editing.patch import check_tensor
from lks.edits import Edit
from lks.method.contrast_gate import ContrastGate
from lks.method.params import GateKind
from lks.method.relation_gate import RelationGate
from lks.models.lm import LM


class Gate(Protocol):
    """Decides whether a prompt that mentions an edited subject asks for the edited fact.

    Attributes:
        threshold: saved with the patch.
        joinable: whether gates of different subjects can become one.
    """

    threshold: float
    joinable: bool

    @property
    def subjects(self) -> int:
        """Number of subjects."""

    def read(self, lm: LM, block: int, texts: Sequence[str]) -> Tensor:
        """Return what the gate looks at [texts, k] of prompts that the unedited model reads."""

    def features(self, hidden: Tensor, rows: Tensor, message: Tensor) -> Tensor:
        """Return the same [n, k] of messages [n, time] in rows [n] of block-l states [batch, time, d]."""

    def opens(self, asked: Tensor, subjects: Tensor) -> Tensor:
        """Return [n] whether prompts [n, k] that mention subjects [n] ask for an edited fact."""

    def only(self, chosen: Sequence[int]) -> "Gate":
        """Return the gate of some subjects, by their numbers, in this order."""

    def to(self, device: torch.device) -> "Gate":
        """Return the same gate on a device."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save."""


def fit_gate(
    kind: GateKind,
    lm: LM,
    block: int,
    edits: Sequence[Edit],
    numbers: Mapping[str, int],
    seed: int,
    questions: int = 0,
    dtype: torch.dtype | None = None,
) -> Gate | None:
    """Fit a gate to the training prompts of edits; None for kind "none".

    Args:
        kind: of the gate.
        lm: the unedited model.
        block: l, whose output the gate looks at.
        edits: the edits; at least one.
        numbers: number of each subject, as in the table of knowledge blocks.
        seed: random seed of the fit, where anything is drawn.
        questions: number of common questions per edit (contrast gate).
        dtype: number format in which the model reads prompts; None for its own (contrast gate).
    """
    if kind == "none":
        return None
    if kind == "relation":
        return RelationGate.fit(lm, block, edits, numbers, seed=seed)
    return ContrastGate.fit(lm, block, edits, numbers, questions, dtype)


def saved_gate(tensors: Mapping[str, Tensor], threshold: float | None, d: int) -> Gate | None:
    """Return the gate of a saved patch; None if it has none.

    Subject numbers are checked before anything as long as the largest of them is created.

    Args:
        tensors: those of the patch, the gate's with "gate." in front.
        threshold: of the patch's settings.
        d: width of the model.

    Raises:
        ValueError: tensors of another type or shape, or owners that are no subjects.
    """
    if threshold is None:
        return None
    owner = tensors["gate.owner"]
    main = "gate.direction" if "gate.direction" in tensors else "gate.keys"
    first = check_tensor(main, tensors[main], None, 2 * d if main == "gate.direction" else d)
    if owner.dtype != torch.long or (
        len(owner) and not 0 <= int(owner.min()) <= int(owner.max()) < len(first)
    ):
        raise ValueError("gate.owner holds no numbers of subjects")
    if main == "gate.direction":
        return ContrastGate(first, check_tensor("gate.border", tensors["gate.border"], len(first)), owner)
    return RelationGate(first, owner, check_tensor("gate.centre", tensors["gate.centre"], d), threshold)
