"""Advice for facts that were not learnt or a model that was harmed, in terms of the method's parameters."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.editing import RecallAnswer, RecallCheck
from workbench.plural import many
from workbench.presets import method_named

if TYPE_CHECKING:
    from workbench.health import Health
    from workbench.patch_folder import EditRecord


def on_misses(check: RecallCheck, origin: "EditRecord | None") -> list[str]:
    """Return advice for facts that are not answered, one line each.

    More training is only suggested where the edits act and the answer is still different, and only for a
    method that trains.
    """
    missed = check.those("no")
    closed = [one for one in missed if one.acts is False]
    lines = []
    if check.those("begins"):
        lines.append(_on_beginnings(check.those("begins")))
    if closed:
        where = f"On {many(len(closed), 'prompt')} not answered the edit does not act"
        lines.append(
            f"{where}: its scope or gate assigns them to another question. "
            "Longer training does not change that."
        )
    open_ones = len(missed) - len(closed)
    if open_ones and origin is not None:
        setting = changed(origin, method_named(origin.method).effort, 2)
        ways = [f"train longer ({setting})"] if setting else []
        ways += ["edit all facts at once (--overwrite)"] if len(origin.history) > 1 else []
        if ways:
            lines.append(f"What may help with {many(open_ones, 'fact')} not answered: {' or '.join(ways)}.")
    return lines


def _on_beginnings(those: Sequence[RecallAnswer]) -> str:
    shown = those[0].wanted.rstrip(".")
    return (
        "Where an answer only begins as wanted, its end was not learnt. "
        f'A target with its full stop ("{shown}.") teaches the end, too.'
    )


def on_troubles(health: "Health", origin: "EditRecord | None") -> str:
    """Return what is wrong with the edited model and what to try, or "" if nothing is wrong."""
    if not health.troubles:
        return ""
    told = f"The edit has harmed the model: {', '.join(health.troubles)}."
    if origin is None:
        return told
    method = method_named(origin.method)
    ways = [way for way in (changed(origin, method.step, 0.5), changed(origin, method.effort, 0.5)) if way]
    return f"{told} Try {'smaller or fewer steps: ' + ' or '.join(ways) if ways else 'another method'}."


def changed(origin: "EditRecord", name: str, factor: float) -> str:
    """Return the option that multiplies a parameter's present value, as the user types it; "" if it is no
    number.
    """
    value = origin.parameters.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    new = max(1, int(value * factor)) if isinstance(value, int) else value * factor
    return "" if new == value else f"--set {name}={new if isinstance(new, int) else format(new, 'g')}"
