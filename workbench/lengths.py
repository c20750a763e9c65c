"""Warnings about answers and prompts longer than a method was made for, and results by length afterwards."""

from typing import TYPE_CHECKING

import baselines
from lks.models.lm import LM
from workbench.editing import RecallCheck
from workbench.plural import many

if TYPE_CHECKING:
    from lks.data.user_facts import Facts
    from lks.editing.editor import Editor

FAR = 1.5
"""Lengths above this multiple of what a method was made for count as far longer."""
GROUPS = ((1, 8), (9, 16), (17, 32), (33, 10**9))
"""Target lengths that are reported together, in tokens."""
SPREAD = 16
"""Lengths vary much if a target has more tokens than this and another has at most half as many."""


def too_long(lm: LM, method: "type[Editor[object]]", facts: "Facts") -> list[str]:
    """Return warnings about facts that are far longer than those the method was made for; empty if none are.

    Args:
        lm: model whose tokenizer is used; it is not run.
        method: method that is to edit.
        facts: facts to edit.
    """
    made, edits = method.made_for, [case.edit for case in facts.dataset().cases]
    if made is None or not edits:
        return []
    encoded = lm.encode([edit.prompt for edit in edits], [edit.target for edit in edits])
    found = []
    for what, lengths, longest in (
        ("target", [len(one.answer) for one in encoded], made.target),
        ("prompt", [one.n_prompt for one in encoded], made.prompt),
    ):
        far = [length for length in lengths if length > FAR * longest]
        if far:
            between = f"{min(far)} to {max(far)}" if min(far) < max(far) else f"{max(far)}"
            verb = "is" if len(far) == 1 else "are"
            found.append(
                f"{len(far)} of {many(len(edits), what)} {verb} far longer than {method.title} was made for: "
                f"{between} tokens, where {made.source} has {longest} at most."
            )
    return (
        [*found, _others(max(len(one.answer) for one in encoded), max(one.n_prompt for one in encoded))]
        if found
        else []
    )


def _others(target: int, prompt: int) -> str:
    """Return a sentence that names methods for edits of such lengths."""
    made = {name: method.made_for for name, method in baselines.methods().items()}
    names = [
        name
        for name, lengths in made.items()
        if lengths and target <= FAR * lengths.target and prompt <= FAR * lengths.prompt
    ]
    if not names:
        return (
            "No method here was made for edits of this length: "
            "shorten them, or split each into several facts."
        )
    return (
        f"They may not be learnt. Made for such lengths (--method): {', '.join(sorted(names))}. "
        "Or shorten them to answers of a few words."
    )


def by_length(check: RecallCheck) -> str:
    """Describe how many facts are answered by target length; return "" if lengths do not vary much."""
    lengths = [one.tokens for one in check.said]
    if not lengths or max(lengths) <= SPREAD or min(lengths) > SPREAD // 2:
        return ""
    parts = []
    for low, high in GROUPS:
        here = [one for one in check.said if low <= one.tokens <= high]
        if here:
            name = f"{low} to {high}" if high < GROUPS[-1][1] else f"{low} and more"
            parts.append(f"{name} tokens: {sum(one.says == 'answered' for one in here)} of {len(here)}")
    return "; ".join(parts)
