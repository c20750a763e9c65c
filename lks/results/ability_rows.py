"""What an (edited) model scored on the documents of a test of ability, and the shard that keeps it."""

from dataclasses import dataclass

from lks.results.rows import columns


@dataclass(frozen=True, slots=True)
class AbilityRow:
    """One document of one task under one model. Nothing here is a mean.

    Attributes:
        draw: which of the cell's edit sets was in force.
        task: name in lm-eval ("gsm8k", "mmlu_anatomy"), or "made_...".
        metric: name in lm-eval, with the filter behind a comma if the task has filters ("acc", "exact_match,strict-match").
        doc_id: number of the document in the split that the task evaluates, whatever the limit.
        score: of this document; 0 or 1 for an accuracy.
        target: the right answer; of several a JSON list.
        response: the model's answer for people to read: generated text, or the choice of highest likelihood.
        requests: JSON list of [key, result], one for each request of the document: what
            `lks.evaluation.ability.ReusableReplies` needs to use an answer again.
            Only in the document's first row, "" in the others. A choice has the result [log p, whether it is the greedy continuation].
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
