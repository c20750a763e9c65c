"""Choice of method and parameters: a preset file, its preset for the model, or its rule for other models."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import baselines
from lks.editing.preset_files import ORIGIN, check_presets, check_used
from lks.errors import UserError, unknown

if TYPE_CHECKING:
    from lks.editing.editor import Editor

TRAINING_HINT = "Name a dataset for that with --training: zsre, or world for the models that are shipped."
BY_RULE = "its rule for models it was not tuned for"
"""Origin of an edit's parameters if they come from the rule, as recorded with the edit."""
Preset = Callable[[int, str], object]


def method_named(name: str) -> "type[Editor[object]]":
    """Return a method by its registry name, or by its title ("FT-M") in any case.

    Raises:
        UserError: there is no method of that name.
    """
    known = baselines.methods()
    titled = {method.title.casefold(): method for method in known.values()}
    found = known.get(name) or titled.get(name.casefold())
    if found is None:
        raise unknown("method", name, known)
    return found


def check_preset_files(used: "tuple[type[Editor[object]], str] | None" = None) -> None:
    """Check the preset files in use before any work.

    Args:
        used: method and name of the model of which one file of `--preset` has to be; None for any.

    Raises:
        UserError: a file is wrong, or one of `--preset` is for another method or model.
    """
    check_presets(baselines.methods())
    if used is not None:
        method, model = used
        check_used([(method.registry_name(), model)], f"{method.title} on {model}")


def changes_of(settings: Sequence[str]) -> dict[str, str]:
    """Parse `name=value` settings into a dictionary.

    Raises:
        UserError: a setting does not have that form, or a name is given twice.
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
    """Check settings before a model is loaded.

    Raises:
        UserError: a setting names no parameter of the method, or its value has the wrong type.
    """
    from lks.editing.editor import override

    sample = next((preset for preset in method.presets.values()), None)
    if sample is not None:
        override(sample(1, ""), changes)


def check_training(method: "type[Editor[object]]", training: str) -> None:
    """Check the training dataset before a model is loaded.

    Raises:
        UserError: the method has to train and no dataset is named, or there is no dataset of that name.
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
    """Return the editor, and which preset its parameters come from.

    Args:
        method: the method.
        model: name of the model.
        shape: number of blocks and width of the model.
        facts: number of facts, and name of the dataset to train on beforehand, which is taken as an example
            of what the facts are like ("" for none).
        changes: parameters set by the user.

    Raises:
        UserError: there are no parameters for the model, or a change does not parse.
    """
    n_edits, dataset = facts
    stored = method.preset_file(model, n_edits)
    own = BY_RULE if method.by_rule(model) else f"preset for {model}"
    source = f"{ORIGIN} {stored.path.name}" if stored else own
    return method.for_model(model, dataset, n_edits, changes, lambda: shape), source
