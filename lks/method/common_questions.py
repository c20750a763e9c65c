"""Questions that can be asked about anybody or anything: prompts about other facts of any subject."""

import random

from lks.data.templates import stems
from lks.edits import Edit

ATTRIBUTES = (
    "age", "area", "author", "award", "capital", "cause of death", "chief executive", "child", "colour",
    "currency", "date of birth", "date of death", "director", "education", "employer", "father",
    "favourite sport", "founder", "founding date", "genre", "headquarters", "height", "hobby", "instrument",
    "location", "main character", "main product", "material", "mother", "name of the pet", "nationality",
    "neighbour", "number of employees", "occupation", "official language", "owner", "place of birth",
    "population", "position", "producer", "publisher", "record label", "release date", "religion", "revenue",
    "running time", "sibling", "spouse", "team", "weight",
)  # fmt: skip
FORMS = ("What is the {attribute} of {subject}?", "The {attribute} of {subject} is")


def common_questions(edit: Edit, count: int) -> list[tuple[str, ...]]:
    """Return prompts about at most `count` other facts of an edit's subject, each in the same forms.

    The attributes are drawn at random, always the same for a subject. One that shares a word with the edit
    prompt or a training paraphrase is left out, because it may ask for the edited fact.
    """
    own = frozenset[str]().union(*(stems(text) for text in (edit.prompt, *edit.training_paraphrases)))
    apart = [attribute for attribute in ATTRIBUTES if not stems(attribute) & own]
    drawn = random.Random(edit.subject).sample(apart, min(count, len(apart)))
    return [
        tuple(form.format(attribute=attribute, subject=edit.subject) for form in FORMS) for attribute in drawn
    ]
