"""A patch put on a transformers model until it is removed; the object remains a `PreTrainedModel`."""

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
"""Parts of names of `cache_implementation` whose size is fixed before the prompt is seen."""


def load_patch(folder: str | Path) -> Patch:
    """Load the patch saved in a folder, which may be untrusted: nothing in it is executed.

    Raises:
        UserError: there is no patch, a damaged one, or one of a newer format.
    """
    return lks.editing.patch.load(Path(folder))


class _On:
    """What is needed to remove a patch."""

    def __init__(self, kind: type, exits: ExitStack, longer: bool) -> None:
        self.kind, self.exits, self.longer = kind, exits, longer


class PatchedModel(PreTrainedModel):  # type: ignore[no-untyped-call]  # transformers has no types here
    """The class of a model while a patch is on it; name and everything else of the original class stay."""

    _patch: _On

    def unpatch(self) -> PreTrainedModel:
        """Remove the patch and return the same object.

        Weights, hooks, class and modes are what they were, bit for bit.
        """
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
        if isinstance(self, PatchedModel):  # not if it was removed inside
            self.unpatch()

    def generate(self, inputs: Tensor | None = None, generation_config: Any = None, **kwargs: Any) -> Any:
        """Generate as the model itself does; see `transformers.GenerationMixin.generate`.

        Raises:
            UserError: options with which the patch would not see the whole prompt, or has no room.
        """
        self._check(generation_config, kwargs)
        prompt = inputs if inputs is not None else kwargs.get("input_ids")
        with _prompt_width(None if prompt is None else prompt.shape[1]):
            return super().generate(inputs, generation_config, **kwargs)  # type: ignore[misc]

    def _check(self, config: Any, given: dict[str, Any]) -> None:
        """Refuse options of `generate` that do not work with a patch."""

        def option(name: str) -> Any:
            return given.get(name, getattr(config or self.generation_config, name, None))

        if option("prefill_chunk_size"):
            raise UserError(
                "prefill_chunk_size does not work with a patch, which has to see a prompt in one piece to "
                "decide. Leave it out."
            )
        implementation = str(option("cache_implementation"))
        if self._patch.longer and any(name in implementation for name in FIXED_SIZE):
            raise UserError(
                f"cache_implementation={implementation!r} has no room for the text that this patch puts "
                "before prompts. Use 'dynamic'."
            )


def patched(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    patch: Patch | str | Path,
    architecture: Architecture | None = None,
) -> PatchedModel:
    """Put a patch on a model, to stay until `unpatch()`.

    The result is the same object, so nothing is copied and `model` itself answers as edited too:

        from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
        import lks
        model, tokenizer = AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
        edited = lks.patched(model, tokenizer, "patch/")
        print(pipeline("text-generation", model=edited, tokenizer=tokenizer)("Alan Turing was born in"))

    `edited.unpatch()` removes it; in a `with` statement (`with lks.patched(...) as edited:`) it is removed on
    exit.

    All decisions are taken at prefill: on the tokens of the first pass on an empty cache, with the attention
    mask that comes with them. A second piece of prompt on a cache that holds the first is a step like any
    other: what was decided for the first holds, and subjects that are named only in the second are not found.
    A chat must therefore be prefilled as a whole, as `pipeline` and chat templates do.

    Args:
        model: any causal language model of a known family; until `unpatch()` it is in evaluation mode with
            frozen parameters.
        tokenizer: its fast tokenizer; gets a padding token if it has none.
        patch: a patch, or the folder it was saved in.
        architecture: for families that `lks.models.architectures` does not know.

    Raises:
        UserError: the patch cannot be read or is for another model, or the model already has a patch.
    """
    if isinstance(model, PatchedModel):
        raise UserError("The model already has a patch. Remove it with unpatch() first.")
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
    """Restore on exit which modules train and which parameters require gradients."""
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
    """Set the width of the prompts that are generated from, inside the `with`."""
    token = PROMPT_WIDTH.set(width)
    try:
        yield
    finally:
        PROMPT_WIDTH.reset(token)
