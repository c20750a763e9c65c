"""Knowledge block replacer: hooks that put new blocks at the edited entities' positions (paper, Sec. 3.3)."""

from collections.abc import Collection, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lks.editing.patch import Patch, cannot_merge, check_tensor, checked
from lks.editing.row_patch import RowPatch
from lks.errors import UserError
from lks.method.contrast_gate import ContrastGate
from lks.method.gate_parts import messages
from lks.method.gates import Gate, saved_gate
from lks.method.params import Mentions, Positions
from lks.models.lm import LM
from lks.models.prefill import FIRED, FOUND, Pass, Prefills, installed_hooks, track_prefill
from lks.scope.indicator import ScopeKind, make_scope
from lks.scope.naming import mentioned


class KnowledgeBlockPatch(Patch):
    """New knowledge blocks by subject, inserted where the scope indicator finds the subject in the prompt.

    The decision is taken once, at prefill, from the prompt's tokens: what the model generates afterwards
    cannot change it, with or without a key-value cache. Padding on either side does not matter. Where a
    prompt mentions several edited subjects, each mention gets its block; a prompt that mentions none is left
    unchanged.

    Args:
        names: for each subject, its name and aliases.
        table: [blocks, subjects, d] new knowledge blocks.
        blocks: the decoder blocks whose outputs are replaced, ascending; the first is l.
        positions: which of the subject's tokens are replaced.
        scope: the scope rules that decide.
        mentions: whether all mentions of a subject in a prompt are replaced, or only its last.
        gate: excludes prompts that ask for another fact of the subject; it looks at block l.
        loose: numbers of the subjects that the scope also finds as a part of a longer name
            (`lks.edits.loose_subjects`).

    Raises:
        ValueError: names, table, blocks and gate do not fit together.
    """

    kind = "knowledge_blocks"

    def __init__(
        self,
        names: list[list[str]],
        table: Tensor,
        blocks: tuple[int, ...],
        positions: Positions,
        scope: ScopeKind,
        mentions: Mentions = "all",
        gate: Gate | None = None,
        loose: Sequence[int] = (),
    ) -> None:
        if table.ndim != 3 or len(table) != len(blocks) or table.shape[1] != len(names):
            raise ValueError(
                f"{len(names)} subjects and {len(blocks)} blocks but a table of shape {tuple(table.shape)}"
            )
        if not blocks or list(blocks) != sorted(set(blocks)):
            raise ValueError(f"blocks {blocks} are not ascending")
        if any(not 0 <= subject < len(names) for subject in loose):
            raise ValueError(f"{len(names)} subjects but {list(loose)} are to be found in longer names")
        if gate is not None and gate.subjects != len(names):
            raise ValueError(f"{len(names)} subjects but a gate for {gate.subjects}")
        self.names, self.table, self.blocks, self.positions, self.scope_kind = (
            names,
            table,
            blocks,
            positions,
            scope,
        )
        self.mentions, self.gate, self.loose = mentions, gate, tuple(loose)
        self.scope = make_scope(scope, names, self.loose)

    @property
    def nbytes(self) -> int:
        """Bytes of the table and the gate."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """Return the table, and the gate's tensors if there is one."""
        gate = {} if self.gate is None else self.gate.tensors()
        return {"table": self.table} | {f"gate.{name}": tensor for name, tensor in gate.items()}

    def settings(self) -> dict[str, object]:
        """Return names, blocks, positions, scope rules, mentions, the gate's threshold and loose subjects."""
        return {
            "names": self.names,
            "blocks": list(self.blocks),
            "positions": self.positions,
            "scope": self.scope_kind,
            "mentions": self.mentions,
            "threshold": None if self.gate is None else self.gate.threshold,
            "loose": list(self.loose),
        }

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], settings: dict[str, object]) -> Self:
        """Restore a saved patch; version 0.1.0 saved a table [subjects, d] and one "block".

        Raises:
            ValueError: what was saved does not fit together.
        """
        table = tensors["table"]
        if "block" in settings:
            table, settings = table[None], settings | {"blocks": [settings["block"]]}
        saved = checked(_KnowledgeBlockSettings, settings)
        _, _, d = check_tensor("table", table, len(saved.blocks), len(saved.names), None).shape
        gate = saved_gate(tensors, saved.threshold, d)
        return cls(
            saved.names, table, saved.blocks, saved.positions, saved.scope, saved.mentions, gate, saved.loose
        )

    def only(self, chosen: Sequence[int]) -> "KnowledgeBlockPatch":
        """Return the patch of some of its subjects, with identical blocks, names and gate keys.

        Args:
            chosen: numbers of subjects, in their new order.
        """
        gate = None if self.gate is None or not chosen else self.gate.only(chosen)
        names = [self.names[i] for i in chosen]
        loose = [place for place, subject in enumerate(chosen) if subject in self.loose]
        return KnowledgeBlockPatch(
            names,
            self.table[:, list(chosen)],
            self.blocks,
            self.positions,
            self.scope_kind,
            self.mentions,
            gate,
            loose,
        )

    def without(self, subjects: Collection[str]) -> "KnowledgeBlockPatch":
        """Return the patch without some subjects; the part of the others stays bit for bit the same."""
        gone = set(subjects)
        return self.only([number for number, name in enumerate(self.subjects) if name not in gone])

    @property
    def extensible(self) -> bool:
        """Whether knowledge blocks of other subjects can be added: not if a gate has a common threshold."""
        return self.gate is None or self.gate.joinable

    def merged_with(self, other: Patch) -> "KnowledgeBlockPatch":
        """Return one patch with the knowledge blocks of both, which have different subjects.

        Raises:
            UserError: they do not replace in the same way, or have gates.
        """
        if not isinstance(other, KnowledgeBlockPatch):
            raise cannot_merge(self, other)
        if not self.names or not other.names:
            return self if self.names else other
        for what in ("blocks", "positions", "scope_kind", "mentions"):
            if getattr(self, what) != getattr(other, what):
                raise UserError(
                    f"The patches differ in {what}: {getattr(self, what)} and {getattr(other, what)}. "
                    "Edit again with all facts."
                )
        if not (self.extensible and other.extensible):
            raise UserError(
                "Patches with a gate cannot be joined: its threshold is that of its own subjects. "
                "Edit again with all facts."
            )
        gate = None
        if isinstance(self.gate, ContrastGate) and isinstance(other.gate, ContrastGate):
            gate = self.gate.joined(other.gate)
        elif self.gate is not None or other.gate is not None:
            raise UserError("One of the patches has a gate, the other has none. Edit again with all facts.")
        table = torch.cat([self.table.cpu().float(), other.table.cpu().float()], 1)
        loose = [*self.loose, *(len(self.names) + subject for subject in other.loose)]
        names = [*self.names, *other.names]
        return KnowledgeBlockPatch(
            names, table, self.blocks, self.positions, self.scope_kind, self.mentions, gate, loose
        )

    def parts(self) -> dict[str, Tensor]:
        """Return the knowledge blocks [blocks, d] by subject."""
        return {name: self.table[:, number] for number, name in enumerate(self.subjects)}

    def names_in(self, text: str) -> bool:
        """Return whether a text mentions an edited subject."""
        return bool(self.scope.find(text))

    def misfit(self, blocks: int, dim: int) -> str:
        """Return what a model of this shape lacks for the patch."""
        if self.blocks[-1] < blocks and self.table.shape[2] == dim:
            return ""
        return f"block {self.blocks[-1]} of width {self.table.shape[2]}"

    def by_rows(self, lm: LM) -> RowPatch:
        """Return the patch for rows of any batch."""
        return _KnowledgeRows(self, lm)

    @property
    def subjects(self) -> tuple[str, ...]:
        """Each subject's name without its aliases."""
        return tuple(names[0] if names else "" for names in self.names)

    def fires(self, lm: LM, prompts: Sequence[str]) -> list[bool]:
        """Return whether each prompt mentions an edited subject; a gate may still exclude it."""
        return [bool(self.find(lm, encoded.ids)) for encoded in lm.encode(prompts, [""] * len(prompts))]

    @contextmanager
    def applied(self, lm: LM) -> Iterator[None]:
        """Install a hook on each of the blocks, removed on exit."""
        replacer = Replacer(self, lm)
        with track_prefill(lm, replacer.decide) as prefills:
            hooks = [partial(replacer.replace, prefills, place) for place in range(len(self.blocks))]
            with installed_hooks(
                [
                    lm.block(block).register_forward_hook(hook)
                    for block, hook in zip(self.blocks, hooks, strict=True)
                ]
            ):
                yield

    def find(self, lm: LM, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Return (token, subject) of every replacement in a prompt without padding, before the gate."""
        found = mentioned(lm.pieces, self.scope, ids)
        if self.mentions == "last":
            found = list({mention[0]: mention for mention in found}.values())
        if self.positions == "last":
            return [(last, subject) for subject, _, last in found]
        return [(token, subject) for subject, first, last in found for token in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class _KnowledgeBlockSettings:
    """Settings of a saved `KnowledgeBlockPatch`."""

    names: list[list[str]]
    blocks: tuple[int, ...]
    positions: Positions
    scope: ScopeKind
    mentions: Mentions = "all"
    threshold: float | None = None
    loose: tuple[int, ...] = ()


class Replacer:
    """Finds the mentions at prefill and inserts the new blocks there."""

    def __init__(self, patch: KnowledgeBlockPatch, lm: LM) -> None:
        self.patch, self.lm = patch, lm
        self.tables = patch.table.to(lm.device, lm.model.dtype).unbind(0)
        self.gate = None if patch.gate is None else patch.gate.to(lm.device)
        self.decided: Tensor | None = None
        self.open: Tensor | None = None

    def decide(self, now: Pass, rows: Container[int] | None = None) -> None:
        """Set `decided` to the positions to replace.

        `decided` is [3, replaced positions]: row, position and subject; None if no subject is mentioned.
        Positions are ascending within a row. What is recorded for each row holds unless a gate excludes it.

        Args:
            now: the prefill.
            rows: rows to decide, the others are left unchanged; None for all.
        """
        found: list[tuple[int, int, int]] = []
        about = [-1] * len(now.ids)
        masks = None if now.mask is None else now.mask.tolist()
        for row, tokens in enumerate(now.ids.tolist()):
            if rows is not None and row not in rows:
                continue
            kept = tokens if masks is None else list(compress(tokens, masks[row]))
            replaced = self.patch.find(self.lm, kept)
            if replaced:
                replaced.sort()
                about[row] = replaced[-1][1]
                columns = (
                    range(len(tokens)) if masks is None else list(compress(range(len(tokens)), masks[row]))
                )
                found += [(row, columns[token], subject) for token, subject in replaced]
        self.decided = torch.tensor(found, device=now.ids.device).T if found else None
        subject = torch.tensor(about, device=now.ids.device)
        now.row_state |= {FIRED: subject >= 0, FOUND: subject}

    def _opens(self, gate: Gate, hidden: Tensor, now: Pass) -> Tensor:
        """Return [mentions] whether the gate opens; prompts without a mention are not looked at."""
        assert self.decided is not None
        rows, positions, subjects = self.decided
        row, message, where = messages(now.ids, now.prompt, self.lm.special, rows, positions)
        return gate.opens(gate.features(hidden, row, message)[where], subjects)

    def replace(
        self, prefills: Prefills, place: int, _module: nn.Module, _args: tuple[Any, ...], output: Any
    ) -> Any:
        """Replace the decided positions of a block's output by their new blocks.

        Nothing happens in a step on a cache. A new tensor is returned. Writing into the block's own would
        save a copy, which is not worth the risk: another hook may keep that tensor, or its gradient may need
        the value.
        """
        now = prefills.now
        if self.decided is None or now is None or now.step:
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        rows, positions, subjects = self.decided
        new = self.tables[place][subjects].to(hidden.dtype)
        if self.gate is not None:
            if place == 0 and now.is_prefill:
                self.open = self._opens(self.gate, hidden, now)[:, None]
                now.row_state |= _let_through(self.open[:, 0], rows, subjects, len(now.ids))
            assert self.open is not None
            new = torch.where(self.open, new, hidden[rows, positions])
        hidden = hidden.index_put((rows, positions), new)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def _let_through(opened: Tensor, rows: Tensor, subjects: Tensor, batch: int) -> dict[str, Tensor]:
    """Return what is recorded for each row after a gate.

    That is whether it opened for any mention, and the subject of the last one it opened for.

    Args:
        opened: [mentions] whether the gate opened; a row's mentions are in text order.
        rows: [mentions] row of each mention.
        subjects: [mentions] subject of each mention.
        batch: number of rows.
    """
    number = torch.arange(1, len(rows) + 1, device=rows.device) * opened
    last = number.new_zeros(batch).scatter_reduce(0, rows, number, "amax")
    fired = last > 0
    return {FIRED: fired, FOUND: torch.where(fired, subjects[last - 1], -1)}


class _KnowledgeRows(RowPatch):
    """Knowledge blocks, put into the patch's own rows at prefill."""

    def __init__(self, patch: KnowledgeBlockPatch, lm: LM) -> None:
        self.lm, self.blocks = lm, patch.blocks
        self.replacer = Replacer(patch, lm)
        self.prefills = Prefills()

    def begin(self, rows: Sequence[int], prefill: Pass) -> None:
        """Decide from the rows' tokens."""
        self.prefills.now = Pass(prefill.ids, prefill.mask)
        self.replacer.decide(self.prefills.now, frozenset(rows))

    def rest(self) -> None:
        """No pass is the patch's."""
        self.prefills.now = None

    def fired(self) -> Tensor | None:
        """For the patch's own rows."""
        return None if self.prefills.now is None else self.prefills.now.row_state.get(FIRED)

    def modules(self) -> list[nn.Module]:
        """Return the edited blocks."""
        return [self.lm.block(block) for block in self.blocks]

    def handles(self) -> list[RemovableHandle]:
        """Register a hook on each edited block."""
        places = enumerate(self.blocks)
        return [
            self.lm.block(block).register_forward_hook(partial(self.replacer.replace, self.prefills, place))
            for place, block in places
        ]
