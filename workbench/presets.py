"""Which method with which parameters: its preset for the model, or the best guess for a model that nobody has tuned it for."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import baselines
from lks.errors import UserError, unknown

if TYPE_CHECKING:
    from lks.editing.editor import Editor

TRAINING_HINT = "Name a dataset for that with --training: zsre, or world for the models that are shipped."
BY_RULE = "its rule for models it was not tuned for"
"""Where the parameters of an edit come from, as its record says it."""
Preset = Callable[[int, str], object]


def method_named(name: str) -> "type[Editor[object]]":
    """A method by its registry name.

    Raises:
        UserError: there is none of that name.
    """
    known = baselines.methods()
    if name not in known:
        raise unknown("method", name, known)
    return known[name]


def changes_of(settings: Sequence[str]) -> dict[str, str]:
    """`name=value` settings as a dictionary.

    Raises:
        UserError: one is not of that form, or a name is given twice.
    """
    found: dict[str, str] = {}
    for setting in settings:
        name, sign, value = setting.partition("=")
        if not sign or not name.strip():
            raise UserError(f"--set {setting!r}: write name=value, as in --set block=16.")
        if name.strip() in found:
            raise UserError(f"--set {name.strip()} is given twice.")
        found[name.strip()] = value.strip()
    return found


def check_changes(method: "type[Editor[object]]", changes: Mapping[str, str]) -> None:
    """Look at settings before a model is loaded.

    Raises:
        UserError: one names no parameter of the method, or is not of its type.
    """
    from lks.editing.editor import override

    sample = next((preset for preset in method.presets.values()), None)
    if sample is not None:
        override(sample(1, ""), changes)


def check_training(method: "type[Editor[object]]", training: str) -> None:
    """Look at what there is to train on before a model is loaded.

    Raises:
        UserError: the method has to train and nothing is named, or no dataset is of that name.
    """
    from lks.data.datasets import names

    if training and training not in names():
        raise unknown("dataset", training, names())
    if method.trains and not training:
        raise UserError(f"{method.title} learns from other edits before it edits. {TRAINING_HINT}")


def editor_for(
    method: "type[Editor[object]]",
    model: str,
    shape: tuple[int, int],
    facts: tuple[int, str],
    changes: Mapping[str, str],
) -> "tuple[Editor[object], str]":
    """The editor, and which preset its parameters come from.

    Args:
        method: which.
        model: name of the model.
        shape: its number of blocks and its width.
        facts: how many there are, and the name of the dataset to train on beforehand, which stands for what the facts are like ("" for none).
        changes: parameters given by hand.

    Raises:
        UserError: there are no parameters to go by, or a change does not parse.
    """
    source = BY_RULE if method.by_rule(model) else f"preset for {model}"
    n_edits, dataset = facts
    return method.for_model(model, dataset, n_edits, changes, lambda: shape), source
