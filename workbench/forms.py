"""Forms in which a model is asked and edited: bare prompts, question and answer, or turns of its chat
template.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from jinja2 import TemplateError

from lks.edits import Case, Context, Dataset, Edit
from lks.errors import UserError
from lks.evaluation.prompt_formats import Form, available, form_of, preceded, wrapped
from lks.models.lm import LM, template_of
from workbench.plural import many

NAMES: dict[Context, str] = {"bare": "bare", "qa": "as Q: and A:", "chat": "in the chat template"}


def check_form(model: str, form: Form | None) -> None:
    """Refuse the chat form for a model without a chat template; only the tokenizer is loaded, only for that
    form.

    Raises:
        UserError: the tokenizer has no chat template.
    """
    if form == "chat" and not template_of(model):
        raise _without_template(model)


def settled(form: Form, lm: LM) -> Form:
    """Return the form to keep with a patch: for a model without a chat template "auto" becomes "bare".

    Raises:
        UserError: the chat form is requested and there is no chat template.
    """
    if form == "chat" and not available("chat", lm):
        raise _without_template(lm.name or "the model")
    return "bare" if form == "auto" and not available("chat", lm) else form


def put(form: Form, lm: LM, prompt: str) -> str:
    """Return a prompt in its form, as `LM.encode` takes it.

    Raises:
        UserError: the chat template does not accept it.
    """
    context = form_of(form, lm, prompt)
    try:
        return wrapped(context, lm, prompt)
    except (TemplateError, ValueError, TypeError) as error:
        raise UserError(
            f"The chat template of {lm.name or 'the model'} does not accept a single user turn ({error}). "
            "Use --form bare."
        ) from None


def edits_in(form: Form, lm: LM, edits: Sequence[Edit]) -> list[Edit]:
    """Return edits with all prompts, training prompts included, in the form in which each will be asked."""
    return [
        replace(
            edit,
            prompt=put(form, lm, edit.prompt),
            training_paraphrases=tuple(
                _reworded(form, lm, edit.prompt, prompt) for prompt in edit.training_paraphrases
            ),
            training_locality=tuple(put(form, lm, prompt) for prompt in edit.training_locality),
        )
        for edit in edits
    ]


def _reworded(form: Form, lm: LM, prompt: str, paraphrase: str) -> str:
    """Return a paraphrase in its form.

    A paraphrase that contains the prompt ("Tell me: ...") gets the form of the prompt.
    """
    lead, found, _ = paraphrase.partition(prompt)
    if not found:
        return put(form, lm, paraphrase)
    if lm.turns.place_in(prompt) is not None:  # written in the template
        return preceded(lm, prompt, lead)
    return put("chat" if form_of(form, lm, prompt) == "chat" else form, lm, paraphrase)


def dataset_in(form: Form, lm: LM, dataset: Dataset) -> Dataset:
    """Return a dataset with all prompts in their form; unless that is bare, its name says how many have which
    form.
    """
    if form == "bare":
        return dataset
    said = named(form, lm, [probe.prompt for case in dataset.cases for probe in case.probes])
    edits = edits_in(form, lm, [case.edit for case in dataset.cases])
    probes = [
        tuple(replace(probe, prompt=put(form, lm, probe.prompt)) for probe in case.probes)
        for case in dataset.cases
    ]
    texts = [dataset.revision, *(probe.prompt for own in probes for probe in own)]
    revision = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    return Dataset(f"{dataset.name} ({said})", tuple(map(Case, edits, probes)), revision)


def named(form: Form, lm: LM, prompts: Sequence[str]) -> str:
    """Describe the forms of prompts for display: "2 prompts in the chat template, 1 bare"."""
    counted = Counter(NAMES[form_of(form, lm, prompt)] for prompt in prompts)
    (first, count), *others = counted.most_common() or [("bare", 0)]
    return ", ".join([f"{many(count, 'prompt')} {first}", *(f"{n:,} {name}" for name, n in others)])


def _without_template(model: str) -> UserError:
    return UserError(
        f"The tokenizer of {model} has no chat template: it is not a chat model. "
        "Omit --form and --chat, or use --form bare or qa."
    )
