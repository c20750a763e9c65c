"""Text put in front of a prompt, unseen by the caller: how in-context editors change a model's answers.

A bare prompt gets its context in front of its own first token, after the beginning-of-sequence token if the
tokenizer added one. In a chat the context begins the content of the user's last turn, so that the turns stay
whole. Callers see only the sequence they asked about: outputs are cut back to its columns, and later steps on
the key-value cache get the mask and the positions of the longer sequence. So `generate`, teacher forcing and
batches work as on any model.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lks.editing.patch import Patch
from lks.editing.row_patch import RowPatch
from lks.models.generation import positions
from lks.models.lm import LM
from lks.models.prefill import FIRED, FOUND, Pass, Prefills, installed_hooks, track_prefill


class ContextPatch(Patch):
    """A patch that puts a context in front of each prompt; subclasses choose the context."""

    @abstractmethod
    def contexts(self, lm: LM, prompts: Sequence[str]) -> list[str]:
        """Return the text to put in front of each prompt; "" leaves the prompt unchanged."""

    def choices(self, lm: LM, prompts: Sequence[str]) -> list[tuple[str, int]]:
        """Return the context of each prompt, and which of the `subjects` it is about; -1 for none."""
        return [(context, -1) for context in self.contexts(lm, prompts)]

    def fires(self, lm: LM, prompts: Sequence[str]) -> list[bool] | None:
        """Return whether each prompt gets a context.

        A prompt without one is answered as by the unedited model; but in a batch with a prompt that has one
        it is padded like it, which may change a last bit.
        """
        return [
            bool(context)
            for context in self.contexts(
                lm, [asked_in(lm, encoded.ids) for encoded in lm.encode(prompts, [""] * len(prompts))]
            )
        ]

    def rewritten(
        self, lm: LM, prompts: Sequence[Sequence[int]]
    ) -> tuple[list[list[int]], list[tuple[str, int]]]:
        """Return what the model reads instead of some prompts, and the choice made for each (`choices`).

        Prompts and results are token ids.
        """
        choices = self.choices(lm, [asked_in(lm, ids) for ids in prompts])
        return [
            with_context(lm, ids, context) for ids, (context, _) in zip(prompts, choices, strict=True)
        ], choices

    def by_rows(self, lm: LM) -> RowPatch:
        """Return the patch for rows of any batch: their prompts are rewritten."""
        return _ContextRows(self, lm)

    @contextmanager
    def applied(self, lm: LM) -> Iterator[None]:
        """Install hooks on the decoder, removed on exit."""
        with track_prefill(lm) as prefills:
            inserter = _Inserter(self, lm, prefills)
            handles = [
                lm.decoder.register_forward_pre_hook(inserter.before, with_kwargs=True),
                lm.decoder.register_forward_hook(inserter.after),
            ]
            with installed_hooks(handles):
                yield


class _ContextRows(RowPatch):
    """A context, put where `ContextPatch.applied` puts it."""

    def __init__(self, patch: ContextPatch, lm: LM) -> None:
        self.patch, self.lm = patch, lm

    def prompt(self, ids: Sequence[int]) -> list[int]:
        """With the context that the patch chooses."""
        (whole,), _ = self.patch.rewritten(self.lm, [ids])
        return whole


class _Inserter:
    """Hooks that lengthen the decoder's input and shorten its output."""

    def __init__(self, patch: ContextPatch, lm: LM, prefills: Prefills) -> None:
        self.patch, self.lm, self.prefills = patch, lm, prefills
        self.extra = 0
        self.wholes: list[list[int]] = []

    def before(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Insert the contexts into the decoder's input (pre-hook)."""
        now, self.extra = self.prefills.now, 0
        if now is None:
            return None
        if now.ends is None:
            return ((), self._step(now, kwargs)) if "context_mask" in now.row_state else None
        prompts = [ids[keep].tolist() for ids, keep in zip(now.ids, now.prompt, strict=True)]
        if now.is_prefill:
            self.wholes = self._decide(now, prompts)
        extra = max(
            (len(whole) - len(ids) for whole, ids in zip(self.wholes, prompts, strict=True)), default=0
        )
        return ((), self._prefill(now, kwargs, extra)) if extra else None

    def after(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        """Cut the decoder's output back to the caller's columns (hook)."""
        if self.extra:
            output.last_hidden_state = output.last_hidden_state[:, self.extra :]
        return output

    def _decide(self, now: Pass, prompts: list[list[int]]) -> list[list[int]]:
        """Return the token ids of each row with its context, and record which rows have one."""
        wholes, choices = self.patch.rewritten(self.lm, prompts)
        now.row_state[FIRED] = torch.tensor([bool(context) for context, _ in choices], device=now.ids.device)
        if self.patch.subjects:
            now.row_state[FOUND] = torch.tensor([subject for _, subject in choices], device=now.ids.device)
        return wholes

    def _prefill(self, now: Pass, kwargs: dict[str, Any], extra: int) -> dict[str, Any]:
        """Return the decoder's arguments with each row's context.

        The prompt's end stays in the caller's column. Columns after it (generated tokens or padding) stay
        where they are.
        """
        assert now.ends is not None
        self.extra = extra
        batch, time = now.ids.shape
        given = kwargs.get("attention_mask")
        given = given if given is not None and given.ndim == 2 else torch.ones_like(now.ids)
        ids = torch.full(
            (batch, self.extra + time), int(self.lm.tokenizer.pad_token_id), device=now.ids.device
        )
        mask = torch.zeros_like(ids)
        for row, whole in enumerate(self.wholes):
            end = self.extra + int(now.ends[row]) + 1
            ids[row, end - len(whole) : end] = torch.tensor(whole, device=ids.device)
            mask[row, end - len(whole) : end] = 1
            ids[row, end:] = now.ids[row, end - self.extra :]
            mask[row, end:] = given[row, end - self.extra :]
        now.row_state["context_mask"] = mask
        changed = {**kwargs, "input_ids": ids, "attention_mask": mask, "position_ids": positions(mask)}
        changed.pop("cache_position", None)
        return changed

    def _step(self, now: Pass, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the decoder's arguments for a step on the cache.

        The mask is that of the longer sequence, and positions follow from it.
        """
        before: Tensor = now.row_state["context_mask"]
        given = kwargs.get("attention_mask")
        cache = kwargs["past_key_values"]
        later = cache.get_seq_length() - before.shape[1] + now.ids.shape[1]
        tail = (
            given[:, -later:]
            if given is not None and given.ndim == 2
            else torch.ones(len(before), later, device=before.device, dtype=before.dtype)
        )
        mask = torch.cat([before, tail.to(before.dtype)], 1)
        places = positions(mask)[:, -now.ids.shape[1] :]
        changed = {**kwargs, "input_ids": now.ids, "attention_mask": mask, "position_ids": places}
        changed.pop("cache_position", None)
        return changed


def asked_in(lm: LM, ids: Sequence[int]) -> str:
    """Return the text that a prompt's context is chosen by: a bare prompt, or a chat's last user turn."""
    return lm.pieces.decode(lm.turns.content(ids)).text.strip()


def with_context(lm: LM, ids: Sequence[int], context: str) -> list[int]:
    """Return a prompt with a context in front of what is asked; "" leaves it unchanged.

    Args:
        lm: model whose tokenizer and chat template are used.
        ids: token ids of the prompt.
        context: the context; a space at its end separates it from the prompt, and is left out where the
            prompt's first token begins with one.
    """
    if not context:
        return list(ids)
    turn = lm.turns.place(ids)
    at = lm.head(ids) if turn is None else turn
    spaced = lm.pieces.text(ids[at : at + 1])[:1].isspace()
    text = context.removesuffix(" ") if spaced else context
    front: list[int] = lm.tokenizer.encode(text, add_special_tokens=False)
    # the space belonged to the turn
    if spaced and turn is not None and not lm.pieces.text(front[:1])[:1].isspace():
        front = lm.tokenizer.encode(f" {text}", add_special_tokens=False)
    return [*ids[:at], *front, *ids[at:]]
