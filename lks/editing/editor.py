"""The interface of a method: an `Editor` turns edits into a `Patch`."""

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from lks.editing.patch import Patch
from lks.editing.preset_files import StoredPreset, preset_for
from lks.edits import Edit
from lks.errors import UserError, unknown
from lks.models.lm import LM
from lks.models.registry import shape_of
from lks.progress import Progress, no_progress

Changes = Literal["nothing", "weights", "activations", "context"]
Regime = Literal["simultaneous", "sequential"]
ADDED: Mapping[str, bool] = MappingProxyType({"added": True})
"""Metadata of a parameter that was added to a method whose results may be stored."""
After = Callable[[int, Patch], None]
"""Called by a sequential method after each edit with its number and the current patch, which is valid only
during the call."""


def no_callback(number: int, patch: Patch) -> None:
    """Ignore the patch after an edit."""


@dataclasses.dataclass(frozen=True, slots=True)
class NoParams:
    """Parameters of a method that has none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of the edits that a method was made for and measured on.

    Attributes:
        target: tokens of the longest answer.
        prompt: tokens of the longest edit prompt.
        source: the datasets that have them.
    """

    target: int
    prompt: int
    source: str


SHORT = Lengths(16, 26, "zsRE and CounterFact")
"""Facts in a few words. Tokens as SmolLM2 counts them: the longest target of zsRE's 1,037 records that MEND
was measured on, and the longest prompt of CounterFact's 10,000."""
LONG = Lengths(102, 220, "KnowEdit's WikiBio")
"""Sentences that follow passages: the longest target and prompt of its 306 test records (arXiv 2401.01286),
in SmolLM2's tokens."""

ParamsT = TypeVar("ParamsT")


class Editor(ABC, Generic[ParamsT]):
    """A knowledge-editing method with its parameters.

    A subclass in a module of `baselines/` (or `lks/method/lks.py`) is found by its module's name; it is
    registered nowhere else.

    Invariants, checked by the contract tests for every method: the model is the same on return from `edit` as
    on entry; an empty edit set gives a patch that changes nothing; two runs with one seed give the same
    patch; a sequential method calls `after` once per edit, in order.

    Attributes:
        title: name of the method in tables ("FT-M").
        name: registry name, where it differs from that of the method's module.
        source: paper that the method is from.
        changes: what a patch alters.
        regime: whether edits are made at once or one after the other.
        params_type: the frozen dataclass of its parameters.
        presets: model name -> parameters for T edits. "default" serves every model without an entry of its
            own.
        trains: whether `prepare` needs edits to train on.
        notes: what `prepare` adds to the provenance of results, name -> text.
        effort: the parameter that makes training longer (steps, epochs); "" for a method that trains nothing.
        step: the parameter that makes its steps larger; "" for a method that trains nothing.
        made_for: lengths of the edits that the method was made for; None where they are not stated.
    """

    title: ClassVar[str]
    name: ClassVar[str] = ""
    source: ClassVar[str]
    changes: ClassVar[Changes]
    regime: ClassVar[Regime]
    params_type: ClassVar[type]
    presets: ClassVar[Mapping[str, Callable[[int, str], object]]]
    trains: ClassVar[bool] = False
    notes: Mapping[str, str] = MappingProxyType({})
    effort: ClassVar[str] = ""
    step: ClassVar[str] = ""
    made_for: ClassVar[Lengths | None] = None

    def __init__(self, params: ParamsT) -> None:
        self.params = params

    @classmethod
    def preset(cls, model: str) -> Callable[[int, str], object] | None:
        """Return the preset for a model: its own, its family's (the name's first part), or "default".

        It is None if there is none.
        """
        return (
            cls.presets.get(model)
            or cls.presets.get(model.split("-", maxsplit=1)[0])
            or cls.presets.get("default")
        )

    @classmethod
    def registry_name(cls) -> str:
        """Return the name of the method in `lks list methods` and in grids."""
        return str(vars(cls).get("name") or cls.__module__.rpartition(".")[2])

    @classmethod
    def untuned(cls, blocks: int, dim: int) -> Callable[[int, str], object] | None:
        """Return a preset for models the method was not tuned for: Llama-2-7B's, scaled (`_scaled`).

        Args:
            blocks: number of blocks of the model.
            dim: width of a block state; a method whose step sizes depend on it has its own rule.

        Returns:
            The preset; None where the method has no published one to scale.
        """
        published = cls.presets.get(PUBLISHED)
        return (
            None
            if published is None
            else lambda n_edits, dataset: _scaled(published(n_edits, dataset), blocks, dim)
        )

    @classmethod
    def preset_file(cls, model: str, n_edits: int = 1) -> StoredPreset | None:
        """Return the preset for a model and T that the user keeps in a file, or None.

        It comes before the method's own preset and rule.

        Raises:
            UserError: a preset file is wrong.
        """
        return preset_for(cls.registry_name(), model, n_edits)

    @classmethod
    def by_rule(cls, model: str) -> bool:
        """Return whether a model's parameters come from the rule for untuned models, for lack of a preset."""
        return cls.preset(model) is None and cls.has_rule() and cls.preset_file(model) is None

    @classmethod
    def has_parameters(cls, model: str) -> bool:
        """Return whether there are parameters for a model: a preset, a preset file or a rule."""
        return cls.preset(model) is not None or cls.has_rule() or cls.preset_file(model) is not None

    @classmethod
    def has_rule(cls) -> bool:
        """Return whether the method has a rule for untuned models, whatever the shape of the model."""
        return cls.untuned(PUBLISHED_BLOCKS, PUBLISHED_DIM) is not None

    @classmethod
    def for_model(
        cls,
        model: str,
        dataset: str,
        n_edits: int,
        overrides: Mapping[str, str] | None = None,
        shape: Callable[[], tuple[int, int]] | None = None,
    ) -> Self:
        """Return the editor with the preset for a model, dataset and T, some parameters overridden.

        For a model without a preset, the parameters come from the method's rule for untuned models
        (`untuned`). Those in a preset file of the user (`lks.editing.preset_files`) replace either.

        Args:
            model: name of the model.
            dataset: name of the dataset that the facts are from, or are similar to; "" for none.
            n_edits: T.
            overrides: parameter -> value as text.
            shape: returns the model's number of blocks and its width, called only where there is no preset;
                by default they are read from the model's files.

        Raises:
            UserError: an override names no parameter or does not parse as its type, a preset file is wrong,
                or there is neither a preset nor a rule.
        """
        stored = cls.preset_file(model, n_edits)
        if stored and (whole := stored.whole(cls.params_type)):
            return cls(override(whole, overrides or {}))  # type: ignore[arg-type]
        preset = cls.preset(model)
        if preset is None and cls.has_rule():
            preset = cls.untuned(*(shape() if shape else shape_of(model)))
        if preset is None:
            if stored:
                raise stored.incomplete(cls.params_type)
            return cls(_by_hand(cls, model, overrides or {}))  # type: ignore[arg-type]
        made = preset(n_edits, dataset)
        return cls(override(stored.over(made) if stored else made, overrides or {}))  # type: ignore[arg-type]

    def prepare(self, lm: LM, training: Sequence[Edit] = (), progress: Progress = no_progress) -> float:
        """Compute what does not depend on the edits (covariances, meta-training), cached on disk.

        The cache is `lks.io.cache`; the default computes nothing. Call it before `edit`, with the same model.

        Args:
            lm: the unedited model; the same on return as on entry.
            training: edits to train on, none of which is evaluated.
            progress: called with the fraction done.

        Returns:
            Seconds that it took, whenever that was; 0 where there is nothing to compute.

        Raises:
            UserError: the method has to train and `training` is too small.
        """
        return 0.0

    def warnings(self, lm: LM, edits: Sequence[Edit]) -> list[str]:
        """Return warnings about edits that this method cannot make or treats differently, before training.

        Args:
            lm: the unedited model.
            edits: all edits to make.

        Returns:
            One line per warning, with what to do about it; none by default.
        """
        return []

    @abstractmethod
    def edit(
        self,
        lm: LM,
        edits: Sequence[Edit],
        seed: int = 0,
        progress: Progress = no_progress,
        after: After = no_callback,
    ) -> Patch:
        """Make the edits.

        Args:
            lm: the unedited model; the same on return as on entry.
            edits: all edits to make; for a sequential method in this order.
            seed: random seed of the method.
            progress: called with the fraction done.
            after: called after each edit of a sequential method with the edit's number and the patch so far;
                it may query the model, so the model must be the unedited one whenever it is called.
        """


PUBLISHED, PUBLISHED_BLOCKS, PUBLISHED_DIM = "llama-2-7b-chat", 32, 4096
"""The model that nearly every paper has parameters for, its number of blocks and their width."""


TOKENS_PER_DIMENSION = 200
"""Corpus tokens per dimension of a block state for statistics: 50 to 75 per input of an MLP output layer."""


def _scaled(params: object, blocks: int, dim: int) -> object:
    """Return parameters for a model of another size.

    Blocks, counted from 0, are at the same relative depth; no more of a corpus is read than the width needs;
    precision is the fastest.
    """
    places = ("block", "first_block", "last_block")
    found = {name: getattr(params, name) for name in places if isinstance(getattr(params, name, None), int)}
    changes: dict[str, object] = {
        name: min(blocks - 1, place * blocks // PUBLISHED_BLOCKS) for name, place in found.items()
    }
    if hasattr(params, "corpus_tokens"):
        changes["corpus_tokens"] = min(params.corpus_tokens, TOKENS_PER_DIMENSION * dim)
    if hasattr(params, "precision"):
        changes["precision"] = "fast"
    return dataclasses.replace(params, **changes) if changes else params  # type: ignore[type-var]


_SAMPLES: dict[object, str] = {int: "12", float: "0.1", bool: "true"}
_TEXT = '"..."'


def _by_hand(method: type[Editor[ParamsT]], model: str, overrides: Mapping[str, str]) -> object:
    """Return parameters of a method without preset and rule; those without a default must be overridden."""
    kind = method.params_type
    fields, hints = dataclasses.fields(kind), get_type_hints(kind)
    needed = [
        f.name
        for f in fields
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    lacking = [name for name in needed if name not in overrides]
    if overrides and not lacking:
        started = {name: _parse(name, overrides[name], hints[name]) for name in needed}
        return override(kind(**started), overrides)
    name = method.registry_name()
    sample = "".join(
        f", {key} = {_SAMPLES.get(hints[key], _TEXT)}" for key in lacking or [f.name for f in fields][:1]
    )
    raise UserError(
        f"Method {name!r} has no preset for model {model!r}, and no rule for models that it was not tuned "
        "for. "
        f'Give its parameters, in a grid as {{ method = "{name}"{sample} }}, or leave it out for this model.'
    )


def always(params: ParamsT) -> Callable[[int, str], ParamsT]:
    """Return a preset that is the same for every T and dataset."""
    return lambda n_edits, dataset: params


def canonical(params: object) -> str:
    """Return parameters as JSON with sorted keys, which `Cell.id` hashes.

    A parameter with the metadata `ADDED` is left out at its default, so that results stored before it existed
    keep their ids.
    """
    if not dataclasses.is_dataclass(params) or isinstance(params, type):
        return "{}"
    unchanged = {
        field.name
        for field in dataclasses.fields(params)
        if field.metadata == ADDED and getattr(params, field.name) == field.default
    }
    values = dataclasses.asdict(params)
    return json.dumps({name: values[name] for name in values if name not in unchanged}, sort_keys=True)


def override(params: object, changes: Mapping[str, str]) -> object:
    """Return parameters with some fields replaced by values given as text, parsed by the field's type.

    Raises:
        UserError: unknown field or a value that does not parse.
    """
    if not changes:
        return params
    types = get_type_hints(type(params))
    hints = {field.name: types[field.name] for field in dataclasses.fields(params)}  # type: ignore[arg-type]
    values: dict[str, object] = {}
    for name, text in changes.items():
        if name not in hints:
            raise unknown("parameter", name, hints)
        values[name] = _parse(name, text, hints[name])
    return dataclasses.replace(params, **values)  # type: ignore[type-var]


def _parse(name: str, text: str, kind: Any) -> object:
    """Return a parameter's value from text."""
    if get_origin(kind) is tuple:  # tuple[int, ...], written as "3, 4, 5"
        return tuple(_parse(name, part.strip(), get_args(kind)[0]) for part in text.split(","))
    try:
        value: object = TypeAdapter(kind).validate_strings(text)
        return value
    except ValidationError as error:
        raise UserError(f"Parameter {name}={text!r}: {error.errors()[0]['msg']}.") from None
