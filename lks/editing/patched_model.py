"""A patch put on a model of transformers to stay: the object remains a `PreTrainedModel`, and whatever takes one takes it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import lks.editing.patch
from lks.editing.patch import Patch
from lks.errors import UserError
from lks.models.architectures import Architecture
from lks.models.lm import LM
from lks.models.prefill import PROMPT_WIDTH

FIXED_SIZE = ("static", "sliding_window", "hybrid")
"""Parts of names of `cache_implementation` whose room is taken before the prompt is seen."""


def load_patch(folder: str | Path) -> Patch:
    """The patch saved in a folder. It may come from a stranger: nothing in it is run.

    Raises:
        UserError: no patch there, a damaged one, or one of a newer format.
    """
    return lks.editing.patch.load(Path(folder))


class _On:
    """What undoes a patch."""

    def __init__(self, kind: type, exits: ExitStack, longer: bool) -> None:
        self.kind, self.exits, self.longer = kind, exits, longer


class PatchedModel(PreTrainedModel):  # type: ignore[no-untyped-call]  # transformers has no types here
    """What a model's class becomes while a patch is on it; the name and everything else of the class stay."""

    _patch: _On

    def unpatch(self) -> PreTrainedModel:
        """Take the patch off: weights, hooks, class and modes are what they were, bit for bit. Gives the same object."""
        on = self._patch
        del self._patch
        self.__class__ = on.kind
        on.exits.close()
        return cast(PreTrainedModel, self)

    def __enter__(self) -> "PatchedModel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(self, PatchedModel):  # not if it was taken off inside
            self.unpatch()

    def generate(self, inputs: Tensor | None = None, generation_config: Any = None, **kwargs: Any) -> Any:
        """As the model's own; see `transformers.GenerationMixin.generate`.

        Raises:
            UserError: options under which the patch would not see the whole prompt, or has no room.
        """
        self._check(generation_config, kwargs)
        prompt = inputs if inputs is not None else kwargs.get("input_ids")
        with _prompt_width(None if prompt is None else prompt.shape[1]):
            return super().generate(inputs, generation_config, **kwargs)  # type: ignore[misc]

    def _check(self, config: Any, given: dict[str, Any]) -> None:
        def option(name: str) -> Any:
            return given.get(name, getattr(config or self.generation_config, name, None))

        if option("prefill_chunk_size"):
            raise UserError(
                "prefill_chunk_size does not go with a patch, which has to see a prompt in one piece to decide. Leave it out."
            )
        implementation = str(option("cache_implementation"))
        if self._patch.longer and any(name in implementation for name in FIXED_SIZE):
            raise UserError(
                f"cache_implementation={implementation!r} has no room for the text that this patch puts before prompts. Take 'dynamic'."
            )


def patched(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    patch: Patch | str | Path,
    architecture: Architecture | None = None,
) -> PatchedModel:
    """Put a patch on a model, to stay until `unpatch()`.

    It is the very same object, so nothing is copied and `model` itself answers as edited, too:

        from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
        import lks
        model, tokenizer = AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
        edited = lks.patched(model, tokenizer, "patch/")
        print(pipeline("text-generation", model=edited, tokenizer=tokenizer)("Alan Turing was born in"))

    `edited.unpatch()` takes it off; as a `with` statement (`with lks.patched(...) as edited:`) it comes off by itself.

    What decides, decides at prefill: on the tokens of the first pass on an empty cache, by the attention mask that comes with them. A second
    piece of prompt on a cache that holds the first is a step like any other: what was decided for the first holds, and subjects that are
    named only in the second are not found. A chat is therefore to be prefilled as a whole, as `pipeline` and chat templates do.

    Args:
        model: any causal language model of a known family; set to evaluation, its parameters frozen, until `unpatch()`.
        tokenizer: its fast tokenizer; gets a padding token if it has none.
        patch: a patch or the folder it was saved in.
        architecture: for families that `lks.models.architectures` does not know.

    Raises:
        UserError: the patch cannot be read or is for another model, or the model has one on already.
    """
    if isinstance(model, PatchedModel):
        raise UserError("The model has a patch on already. Take it off with unpatch() first.")
    chosen = patch if isinstance(patch, Patch) else load_patch(patch)
    with ExitStack() as exits:
        exits.enter_context(_modes(model))
        lm = LM(model, tokenizer, str(getattr(model.config, "_name_or_path", "")), architecture=architecture)
        exits.enter_context(chosen.applied(lm))
        kind = type(model)
        longer = chosen.context_tokens(lm) > 0
        model.__class__ = type(
            kind.__name__,
            (PatchedModel, kind),
            {"__module__": kind.__module__, "__qualname__": kind.__qualname__},
        )
        edited = cast(PatchedModel, model)
        edited._patch = _On(kind, exits.pop_all(), longer)
    return edited


@contextmanager
def _modes(model: PreTrainedModel) -> Iterator[None]:
    """Puts back which modules train and which parameters want gradients."""
    training = {name: part.training for name, part in model.named_modules()}
    wanting = {name: weight.requires_grad for name, weight in model.named_parameters()}
    try:
        yield
    finally:
        for name, part in model.named_modules():
            part.training = training.get(name, part.training)
        for name, weight in model.named_parameters():
            weight.requires_grad_(wanting.get(name, weight.requires_grad))


@contextmanager
def _prompt_width(width: int | None) -> Iterator[None]:
    token = PROMPT_WIDTH.set(width)
    try:
        yield
    finally:
        PROMPT_WIDTH.reset(token)
