"""Prompt tracking: which tokens of each forward pass are the prompt, for hooks that decide per prompt.

A method that routes (a scope indicator, a code-book, a side memory) decides once per row, at prefill, from
the prompt alone. `Prefills` watches the decoder and distinguishes the passes: the prefill, the same prompt
followed by generated tokens (decoding without a key-value cache), and a step on a cache. What was decided per
row is carried by the cache itself, so it stays right when rows of the cache are selected, repeated, reordered
or copied.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache as remembered
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lks.models.lm import LM

FIRED = "fired"
"""Key in `Pass.row_state`: [batch] bool, whether a gated patch lets its edits act on the row. Patches without
a gate do not write it; those with one do so at every prefill, so that it is on the cache afterwards."""
FOUND = "found"
"""Key in `Pass.row_state`: [batch] which of the patch's subjects (`Patch.subjects`) the row was taken to be
about, the last one of several; -1 where the edits do not act. Written by patches that have subjects."""

PROMPT_WIDTH: ContextVar[int | None] = ContextVar("prompt_width", default=None)
"""Columns of the prompts that are currently generated from, where a caller knows it. Tokens after them in the
first pass, such as the candidate tokens of assisted generation, are not part of the prompt."""


@dataclass(slots=True)
class Pass:
    """One forward pass of the decoder.

    Attributes:
        ids: [batch, time] token ids of this pass.
        mask: [batch, time] attention mask that came with the prompt; None if there was none (all tokens
            count), and in a step on a cache.
        step: whether this pass is a step on a cache.
        continues: the prefill that this pass continues without a cache, if it does.
        row_state: name -> [batch, ...] what was decided per row; written at prefill, read later.
    """

    ids: Tensor
    mask: Tensor | None = None
    step: bool = False
    continues: "Pass | None" = None
    row_state: dict[str, Tensor] = field(default_factory=dict)
    _ends: Tensor | None = None

    @property
    def is_prefill(self) -> bool:
        """Whether this pass is the prefill, in which decisions are taken."""
        return not self.step and self.continues is None

    @property
    def prompt(self) -> Tensor:
        """[batch, time] which columns are prompt tokens (all False in a step on a cache)."""
        if self.is_prefill:
            return torch.ones_like(self.ids, dtype=torch.bool) if self.mask is None else self.mask.bool()
        prompt = torch.zeros_like(self.ids, dtype=torch.bool)
        if self.continues is not None:
            prompt[:, : self.continues.ids.shape[1]] = self.continues.prompt
        return prompt

    @property
    def ends(self) -> Tensor | None:
        """[batch] column of each row's last prompt token; None in a step on a cache."""
        if self.step:
            return None
        if self.continues is not None:
            return self.continues.ends
        if self._ends is None:
            self._ends = (torch.arange(self.ids.shape[1], device=self.ids.device) * self.prompt).amax(1)
        return self._ends


Decide = Callable[[Pass], None]


class Prefills:
    """Tracks the passes of a model's decoder.

    `now` describes the pass that is running; None where prompts are unknown (embeddings as input).
    """

    def __init__(self, decide: Decide | None = None) -> None:
        self.now: Pass | None = None
        self._last: Pass | None = None
        self._decide = decide

    def before(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Classify the pass that begins (decoder pre-hook)."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        cache = kwargs.get("past_key_values")
        if ids is None:
            self.now = None
        elif cache is not None and cache.get_seq_length() > 0:
            self.now = Pass(ids, step=True, row_state=getattr(cache, "row_state", {}))
        else:
            # what fills a cache is a prompt, however similar to the last input
            begins = cache is not None or kwargs.get("use_cache") is True
            self.now = self._last = self._uncached(
                ids, kwargs.get("attention_mask"), None if begins else self._last
            )
            if self._decide is not None and self.now.continues is None:
                self._decide(self.now)

    def after(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        """Copy what was decided to the cache (decoder hook)."""
        made = getattr(output, "past_key_values", None)
        if self.now is not None and self.now.is_prefill and made is not None and self.now.row_state:
            if not isinstance(made, _Carrying):
                made.__class__ = _carrying(made.__class__)
            made.row_state = dict(self.now.row_state)

    def _uncached(self, ids: Tensor, given: object, last: Pass | None) -> Pass:
        """Return the pass for input without a filled cache: a prefill, or a continuation of the last pass."""
        kept = ids.clone()  # the caller may modify its own tensor later
        if last is not None and _continues(last, ids):
            return Pass(kept, continues=last.continues or last, row_state=last.row_state)
        mask, width = _tokens(given), PROMPT_WIDTH.get()
        if width is not None and width < ids.shape[1]:
            mask = (torch.ones_like(ids) if mask is None else mask) * (
                torch.arange(ids.shape[1], device=ids.device) < width
            )
        return Pass(kept, mask)


def _continues(last: Pass, ids: Tensor) -> bool:
    """Return whether `ids` is the last pass's input with one more generated token.

    Beams may have changed places after the prompts.
    """
    before = last.ids
    if before.shape != (ids.shape[0], ids.shape[1] - 1):
        return False
    if torch.equal(ids[:, :-1], before):
        return True
    prompts = (last.continues or last).ids
    if not torch.equal(ids[:, : prompts.shape[1]], prompts):
        return False
    known = {tuple(row) for row in before.tolist()}
    return all(tuple(row) in known for row in ids[:, :-1].tolist())


def _tokens(given: object) -> Tensor | None:
    """Return [batch, time] where there are tokens, from the attention mask at prefill; None if everywhere.

    `generate` with a cache of fixed size passes a prepared mask [batch, 1, time, keys], boolean or added to
    the scores, or a mapping of such masks by kind of attention. In each of them a token sees itself, and
    padding does not.
    """
    if isinstance(given, Mapping):
        given = next((mask for mask in given.values() if mask is not None), None)
    if not isinstance(given, Tensor) or given.ndim == 2:
        return given if isinstance(given, Tensor) else None
    own = given[:, 0].diagonal(dim1=-2, dim2=-1)
    return (own if own.dtype == torch.bool else own == 0).long()


@contextmanager
def track_prefill(lm: LM, decide: Decide | None = None) -> Iterator[Prefills]:
    """Track the model's decoder inside the `with`.

    Hooks of your own that read `now` must be registered inside it: hooks run in the order of registration.

    Args:
        lm: model whose decoder is tracked.
        decide: called with every prefill before the decoder runs. What needs only the prompt's tokens is best
            decided there: on a GPU the tokens can be read at once, while later they wait for all pending
            work.
    """
    prefills = Prefills(decide)
    with installed_hooks(
        [
            lm.decoder.register_forward_pre_hook(prefills.before, with_kwargs=True),
            lm.decoder.register_forward_hook(prefills.after),
        ]
    ):
        yield prefills


@contextmanager
def installed_hooks(handles: list[RemovableHandle]) -> Iterator[None]:
    """Remove hooks on exit, however it is left."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Carrying:
    """A cache mixin: per-row decisions follow the rows."""

    row_state: dict[str, Tensor]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Select rows of the cache and of the decisions."""
        super().batch_select_indices(indices)  # type: ignore[misc]
        self.row_state = {k: v[indices] for k, v in self.row_state.items()}

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat rows of the cache and of the decisions."""
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        self.row_state = {k: v.repeat_interleave(repeats, 0) for k, v in self.row_state.items()}

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder rows of the cache and of the decisions."""
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self.row_state = {k: v[beam_idx.to(v.device)] for k, v in self.row_state.items()}


@remembered
def _carrying(kind: type) -> type:
    """Return a subclass of a cache class that carries decisions."""
    return type(f"Carrying{kind.__name__}", (_Carrying, kind), {})
