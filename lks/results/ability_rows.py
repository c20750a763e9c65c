"""Scores of an edited or unedited model on the documents of ability tests, and their shard's columns."""

from dataclasses import dataclass

from lks.results.rows import columns


@dataclass(frozen=True, slots=True)
class AbilityRow:
    """One document of one task under one model; never a mean.

    Attributes:
        draw: which of the cell's edit sets was in force.
        task: name in lm-eval ("gsm8k", "mmlu_anatomy"), or "made_...".
        metric: name in lm-eval, followed by a comma and the filter if the task has filters ("acc",
            "exact_match,strict-match").
        doc_id: number of the document in the split that the task evaluates, whatever the limit.
        score: score of this document; 0 or 1 for an accuracy.
        target: the right answer; a JSON list if there are several.
        response: the model's answer in readable form: generated text, or the choice of highest likelihood.
        requests: JSON list of [key, result], one for each request of the document, which
            `lks.evaluation.ability.ReusableReplies` needs to reuse an answer. Only in the document's first
            row, "" in the others. A choice has the result [log p, whether it is the greedy continuation].
    """

    draw: int
    task: str
    metric: str
    doc_id: int
    score: float
    target: str
    response: str
    requests: str


SCHEMA = columns(AbilityRow, "lks-ability", 1)
