"""A patch of a kind that the program does not know is removed from, merged, compared and asked by row like its own."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lks.editing.patch import NoPatch, Patch, WeightPatch, cannot_merge
from lks.editing.row_patch import RowPatch
from lks.errors import UserError
from lks.evaluation.readouts import Asking, ask, ask_draws, same
from lks.evaluation.side_by_side import SideBySide
from lks.models.lm import LM
from lks.models.prefill import Pass, installed_hooks, track_prefill
from tests.helpers import tiny
from tests.lks.evaluation.test_stages import CASES
from workbench.patch_folder import SavedEdits
from workbench.patch_tools import difference, merge, remove


class Bias(Patch):
    """Adds a vector per subject to the output of a block, in every row whose prompt names the subject."""

    kind = "bias"

    def __init__(self, vectors: dict[str, Tensor], block: int = 1) -> None:
        self.vectors, self.block = vectors, block

    @property
    def nbytes(self) -> int:
        return sum(vector.nbytes for vector in self.vectors.values())

    @property
    def subjects(self) -> tuple[str, ...]:
        return tuple(self.vectors)

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.vectors)

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], settings: dict[str, object]) -> Self:
        return cls(tensors)

    def names_in(self, text: str) -> bool:
        return any(name in text for name in self.vectors)

    def without(self, subjects: Collection[str]) -> "Bias":
        return Bias({name: vector for name, vector in self.vectors.items() if name not in set(subjects)})

    def merged_with(self, other: Patch) -> "Bias":
        if not isinstance(other, Bias):
            raise cannot_merge(self, other)
        return Bias(self.vectors | other.vectors)

    def misfit(self, blocks: int, dim: int) -> str:
        return "" if all(len(vector) == dim for vector in self.vectors.values()) else "another width"

    def by_rows(self, lm: LM) -> "BiasRows":
        return BiasRows(self, lm)

    @contextmanager
    def applied(self, lm: LM) -> Iterator[None]:
        rows = BiasRows(self, lm)
        with track_prefill(lm) as prefills, installed_hooks(rows.handles()):

            def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                now = prefills.now
                if now is not None and not now.step:
                    rows.begin(range(len(now.ids)), now)
                else:
                    rows.rest()

            with installed_hooks([lm.decoder.register_forward_pre_hook(before, with_kwargs=True)]):
                yield


class BiasRows(RowPatch):
    def __init__(self, patch: Bias, lm: LM) -> None:
        self.patch, self.lm, self.change = patch, lm, None

    def begin(self, rows: Sequence[int], prefill: Pass) -> None:
        self.change = torch.zeros(len(prefill.ids), 1, self.lm.dim)
        for row in rows:
            text = self.lm.tokenizer.decode(prefill.ids[row], skip_special_tokens=True)
            for name, vector in self.patch.vectors.items():
                self.change[row] += vector * (name in text)

    def go_on(self, rows: Tensor) -> None:
        self.change = None

    rest = lambda self: setattr(self, "change", None)  # noqa: E731

    def modules(self) -> list[nn.Module]:
        return [self.lm.block(self.patch.block)]

    def handles(self) -> list[RemovableHandle]:
        return [self.lm.block(self.patch.block).register_forward_hook(self._add)]

    def _add(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        if self.change is None:
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden + self.change
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def bias(lm: LM, *subjects: str, seed: int = 0) -> Bias:
    generator = torch.Generator().manual_seed(seed)
    return Bias({name: 3 * torch.randn(lm.dim, generator=generator) for name in subjects})


def edits(patch: Patch) -> SavedEdits:
    return SavedEdits(patch, None, None)


def test_a_subject_is_taken_out() -> None:
    lm = tiny.lm("llama")
    whole = bias(lm, "Ada", "Bo")
    removed = remove(edits(whole), "Ada")
    assert removed.edited.patch.subjects == ("Bo",) and removed.still == ()
    assert torch.equal(removed.edited.patch.tensors()["Bo"], whole.vectors["Bo"])
    assert remove(edits(bias(lm, "Ada", "Ad")), "Ada").still == ("Ada",)  # the other name is in it
    with pytest.raises(UserError, match="Cleo"):
        remove(edits(whole), "Cleo")


def test_two_are_merged_and_one_gives_way() -> None:
    lm = tiny.lm("llama")
    one, two = bias(lm, "Ada", "Bo"), bias(lm, "Bo", "Cleo", seed=1)
    with pytest.raises(UserError, match="--prefer first or --prefer last"):
        merge(edits(one), edits(two))
    first, last = merge(edits(one), edits(two), "first").patch, merge(edits(one), edits(two), "last").patch
    assert set(first.subjects) == set(last.subjects) == {"Ada", "Bo", "Cleo"}
    assert torch.equal(first.tensors()["Bo"], one.vectors["Bo"])
    assert torch.equal(last.tensors()["Bo"], two.vectors["Bo"])
    for other in (NoPatch(), WeightPatch({"w": torch.ones(2)})):
        with pytest.raises(UserError, match="cannot be merged"):
            merge(edits(one), edits(other))


def test_two_are_compared_by_their_parts() -> None:
    lm = tiny.lm("llama")
    found = difference(edits(bias(lm, "Ada", "Bo")), edits(bias(lm, "Ada")))
    assert found.only_first == ("Bo",) and [name for name, *_ in found.norms] == ["Ada", "Bo"]
    assert found.norms[0][3] == 0


def test_draws_are_asked_side_by_side() -> None:
    lm = tiny.lm("llama")
    draws = {0: CASES[:1], 1: CASES[1:3], 2: CASES[3:4]}
    patches: dict[int, Patch] = {
        draw: bias(lm, *(case.edit.subject for case in cases), seed=draw) for draw, cases in draws.items()
    }
    beside = SideBySide.of(lm, patches)
    assert beside is not None
    with beside.applied():
        asked = ask_draws(lm, draws, Asking())
    alone = []
    for draw, cases in draws.items():
        with patches[draw].applied(lm):
            alone += ask(lm, cases, Asking(draw=draw))
    plain = ask_draws(lm, draws, Asking())
    assert all(same(one, replace(other)) for one, other in zip(asked, alone, strict=True))
    assert sum(not same(one, other) for one, other in zip(asked, plain, strict=True)) > len(plain) / 4
