"""Patches of several draws on one model at once, each acting on the rows of its own draw.

What is asked of them shares batches. A question about one edit is a batch of a few rows, and a forward pass
of a few rows costs as much as one of many. So the draws of a cell are asked together where their patches can
act by row (`lks.editing.row_patch`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Self

import torch
from torch import Tensor, nn

from lks.editing.patch import Patch
from lks.editing.row_patch import Group, RowPatch
from lks.models.lm import LM
from lks.models.prefill import FIRED, Prefills, installed_hooks

OWNERS: ContextVar[Sequence[int] | None] = ContextVar("owners", default=None)
"""The draw of each row of the next prefill."""
_OWNER = "owner"
"""Key in `Pass.row_state`: the draw of each row, [batch]."""


@contextmanager
def owned_by(draws: Sequence[int]) -> Iterator[None]:
    """Set the draw that each row of a prefill inside the `with` belongs to."""
    token = OWNERS.set(draws)
    try:
        yield
    finally:
        OWNERS.reset(token)


class SideBySide:
    """Several patches attached to one model.

    Args:
        lm: the model.
        patches: draw -> its patch, ready for rows.
    """

    def __init__(self, lm: LM, patches: Mapping[int, RowPatch]) -> None:
        self._lm, self._patches = lm, dict(patches)
        self._prefills = Prefills()
        self._groups: tuple[Tensor, list[Group]] | None = None

    @classmethod
    def of(cls, lm: LM, patches: Mapping[int, Patch]) -> Self | None:
        """Patches that can act by row; None where one cannot."""
        inside = set(lm.decoder.modules())
        found: dict[int, RowPatch] = {}
        for draw, patch in patches.items():
            one = None if patch.context_tokens(lm) else patch.by_rows(lm)
            if one is None or not inside.issuperset(one.modules()):
                return None
            found[draw] = one
        return cls(lm, found)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let each patch act on the rows of its draw inside the `with`.

        This holds for every prefill inside `owned_by` and for the steps on its cache.
        """
        decoder = self._lm.decoder
        with ExitStack() as stack:
            stack.enter_context(
                installed_hooks([decoder.register_forward_pre_hook(self._before, with_kwargs=True)])
            )
            for patch in self._patches.values():
                stack.enter_context(installed_hooks(patch.handles()))
            stack.enter_context(
                installed_hooks([decoder.register_forward_hook(self._after, always_call=True)])
            )
            yield

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._prefills.before(module, args, kwargs)
        now = self._prefills.now
        owners = OWNERS.get()
        if now is None or (now.is_prefill and owners is None):
            raise ValueError("it is not known which draw the rows belong to; use `owned_by`")
        if now.is_prefill:
            now.row_state[_OWNER] = torch.tensor(owners, device=now.ids.device)
        for patch, rows in self._grouped(now.row_state[_OWNER]):
            if now.is_prefill:
                patch.begin(rows.tolist(), now)
            else:
                patch.go_on(rows)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        now = self._prefills.now
        if now is not None and now.is_prefill and output is not None:
            told = [(patch.fired(), rows) for patch, rows in self._grouped(now.row_state[_OWNER])]
            if all(fired is not None for fired, _ in told):
                now.row_state[FIRED] = torch.zeros(len(now.ids), dtype=torch.bool, device=now.ids.device)
                for fired, rows in told:
                    assert fired is not None
                    now.row_state[FIRED][rows] = fired[rows]
            self._prefills.after(module, args, output)
        for patch in self._patches.values():
            patch.rest()

    def _grouped(self, owners: Tensor) -> list[Group]:
        """Return each patch that has rows, with the numbers of its rows.

        They are kept from step to step, since the rows of a cache stay the same.
        """
        if self._groups is None or self._groups[0] is not owners:
            numbers = owners.tolist()
            found = {
                draw: [row for row, owner in enumerate(numbers) if owner == draw]
                for draw in dict.fromkeys(numbers)
            }
            self._groups = (
                owners,
                [
                    (self._patches[draw], torch.tensor(rows, device=owners.device))
                    for draw, rows in found.items()
                ],
            )
        return self._groups[1]
