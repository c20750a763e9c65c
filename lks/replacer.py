"""KB replacer: a hook on block l that puts new knowledge blocks at the edited entities' positions (paper, Sec. 3.3)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from lks.lm import LM
from lks.material import Positions
from lks.patch import Patch
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
        """Hooks on the decoder (decides) and on block l (replaces), both gone on leaving."""
        replacer = _Replacer(self, lm)
        handles = [
            lm.decoder.register_forward_pre_hook(replacer.decide, with_kwargs=True),
            lm.block(self.block).register_forward_hook(replacer.replace),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Replacer:
    """The two hooks and what passes between them."""

    def __init__(self, patch: KnowledgeBlockPatch, lm: LM) -> None:
        self.patch = patch
        self.pieces = lm.pieces
        self.table = patch.table.to(lm.device)
        self.prompt: Tensor | None = None
        self.decided: Tensor | None = None
        self.active: Tensor | None = None

    def decide(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the decoder runs: which rows and positions get which block; nothing in a cached decoding step."""
        self.active = None
        ids = kwargs.get("input_ids", args[0] if args else None)
        cache = kwargs.get("past_key_values")
        if ids is None or (cache is not None and cache.get_seq_length() > 0):
            return
        if not self._continues(ids):
            mask = kwargs.get("attention_mask")
            self.decided = self._find(ids, mask if mask is not None and mask.ndim == 2 else torch.ones_like(ids))
        self.prompt = ids.detach().clone()
        self.active = self.decided

    def _continues(self, ids: Tensor) -> bool:
        """Whether this is the previous input with one generated token more (decoding without a cache)."""
        last = self.prompt
        return last is not None and ids.shape == (last.shape[0], last.shape[1] + 1) and torch.equal(ids[:, :-1], last)

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
        """After block l: the decided positions get their new blocks."""
        if self.active is None:
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        rows, positions, subjects = self.active
        hidden = hidden.clone()
        hidden[rows, positions] = self.table[subjects].to(hidden.dtype)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
