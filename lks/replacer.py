"""KB replacer: a hook on block l that puts new knowledge blocks at the edited entities' positions (paper, Sec. 3.3)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from lks.lm import LM
from lks.material import Positions
from lks.patch import Patch
from lks.prefill import Prefills, removed, watched
from lks.scope import ScopeKind, make_scope
from lks.tokens import token_of


class KnowledgeBlockPatch(Patch):
    """New knowledge blocks by subject, put in where the scope indicator finds the subject in the prompt.

    The decision is taken once, at prefill, from the prompt's tokens: what the model generates afterwards cannot change
    it, with or without a key-value cache. Padding on either side does not matter. Where a prompt mentions several edited
    subjects, each mention gets its block; a prompt that mentions none is untouched.

    Args:
        names: for each subject its name and aliases.
        table: [subjects, d] new knowledge blocks.
        block: l.
        positions: which of the subject's tokens are replaced.
        scope: which scope rules decide.
    """

    kind = "knowledge_blocks"

    def __init__(self, names: list[list[str]], table: Tensor, block: int, positions: Positions, scope: ScopeKind) -> None:
        self.names, self.table, self.block, self.positions, self.scope_kind = names, table, block, positions, scope
        self.scope = make_scope(scope, names)

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return self.table.numel() * self.table.element_size()

    def tensors(self) -> dict[str, Tensor]:
        """The table."""
        return {"table": self.table}

    def settings(self) -> dict[str, object]:
        """Names, block, positions, scope rules."""
        return {"names": self.names, "block": self.block, "positions": self.positions, "scope": self.scope_kind}

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], settings: dict[str, object]) -> Self:
        """The patch from what was saved.

        Raises:
            ValueError: names and table do not fit together.
        """
        names = cast(list[list[str]], settings["names"])
        table = tensors["table"]
        if table.ndim != 2 or len(table) != len(names):
            raise ValueError(f"{len(names)} subjects but a table of shape {tuple(table.shape)}")
        return cls(names, table, cast(int, settings["block"]), cast(Positions, settings["positions"]), cast(ScopeKind, settings["scope"]))

    @contextmanager
    def applied(self, lm: LM) -> Iterator[None]:
        """A hook on block l that replaces; gone on leaving."""
        with watched(lm) as prefills:
            replacer = _Replacer(self, lm, prefills)
            with removed([lm.block(self.block).register_forward_hook(replacer.replace)]):
                yield


class _Replacer:
    """Finds the mentions at prefill and puts the new blocks there."""

    def __init__(self, patch: KnowledgeBlockPatch, lm: LM, prefills: Prefills) -> None:
        self.patch = patch
        self.prefills = prefills
        self.pieces = lm.pieces
        self.table = patch.table.to(lm.device)
        self.decided: Tensor | None = None

    def _find(self, ids: Tensor, mask: Tensor) -> Tensor | None:
        """[3, replaced positions]: row, position and subject of each; None if no prompt mentions an edited subject."""
        found: list[tuple[int, int, int]] = []
        for row, (tokens, kept) in enumerate(zip(ids.tolist(), mask.tolist(), strict=True)):
            where = [i for i, keep in enumerate(kept) if keep]
            decoded = self.pieces.decode([tokens[i] for i in where])
            for mention in self.patch.scope.find(decoded.text):
                first, last = token_of(decoded.spans, mention.start, mention.end)
                replaced = where[last : last + 1] if self.patch.positions == "last" else where[first : last + 1]
                found += [(row, position, mention.subject_index) for position in replaced]
        return torch.tensor(found, device=ids.device).T if found else None

    def replace(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        """After block l: the decided positions get their new blocks; nothing in a step on a cache."""
        now = self.prefills.now
        if now is None or now.ends is None:
            return None
        if now.fresh:
            self.decided = self._find(now.ids, now.prompt)
        if self.decided is None:
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        rows, positions, subjects = self.decided
        hidden = hidden.clone()
        hidden[rows, positions] = self.table[subjects].to(hidden.dtype)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
