"""Registry and loaders of the datasets.

These are the synthetic world, the real facts of `lks.data.worldfacts`, zsRE and CounterFact as published with
the LKS paper, the facts of causal tracing, KnowEdit (`lks.data.knowedit`), and files of user facts.

The published files are never part of this repository (`lks.data.download` finds and fetches them). They are
read unchanged: irregularities are counted in the dataset's notes.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from lks.data import knowedit
from lks.data.answer_aliases import Spellings
from lks.data.download import Published, content_of, download, find, listed
from lks.data.fact_parsing import SUFFIXES
from lks.data.knowedit_format import FILES
from lks.data.template_prompts import PromptSource, Record, TemplateSource
from lks.data.user_facts import read_facts
from lks.edits import Case, Dataset, Edit, make_case
from lks.errors import DataError, unknown
from lks.io.records import Text, checked
from lks.scope.naming import names_subject, spelt, why_unnamed

__all__ = ["DATASETS", "Published", "download", "find", "load", "names", "parse"]

MakeSource = Callable[[Sequence[Record]], PromptSource]
DATASETS: dict[str, Published | Literal["made"]] = {
    "world": "made",
    "worldfacts": "made",
    "zsre": Published(
        "lks/zsre_eval_data.json",
        "data/zsre/zsre_eval_data.json",
        "d14acb1bc87411560a4d7ac385f6c9e4f27ec44888509e6617f87d12d54b55a8",
    ),
    "counterfact": Published(
        "lks/cf_eval_data.json",
        "data/counterfact/cf_eval_data.json",
        "765a69a29238af887a40e22d0f0d9949cd3735d9fe3ac20c5fd3e9025e08f9b8",
    ),
}
KNOWN: dict[str, Published] = {
    "known1000": Published(
        "known_1000/known_1000.json",
        "data/known_1000.json",
        "7ccd1d2649eaa94db24bdf2bcc19f6305bdd51ff47bc981641ed8bd973f9d5e2",
        "lab-paper-code/dual_path_attribution",
        "411720aaa63c1b479ad425d3b950f55d04d72918",
    ),
}
"""Facts of ROME's causal tracing. There is nothing to edit in them: the target of each is its true answer."""


def names() -> tuple[str, ...]:
    """Return all dataset names, those of user facts last."""
    return (*DATASETS, *KNOWN, *FILES, *sorted(own_facts()))


def own_facts() -> dict[str, Path]:
    """Return the files of user facts (`lks.data.user_facts`) in the folder `LKS_FACTS` by dataset name."""
    folder = os.environ.get("LKS_FACTS")
    files = sorted(Path(folder).expanduser().glob("*")) if folder else []
    return {file.stem: file for file in files if file.suffix.lower() in SUFFIXES}


def load(name: str, data_dir: Path | None = None, make_source: MakeSource | None = None) -> Dataset:
    """Load a dataset with its training prompts.

    Args:
        name: one of `names()`.
        data_dir: folder that holds `lks/zsre_eval_data.json` and the like; None uses `LKS_DATA`, then
            `shared/data` next to the checkout, then downloads into the cache. A folder named here or by
            `LKS_DATA` must hold the file. Other spellings of answers are looked up there too
            (`lks.data.answer_aliases`).
        make_source: makes the source of training prompts from all records of the file; None uses
            `LKS_TRAINING_PROMPTS` if it has prompts for this dataset (`lks.data.generated_prompts`), else the
            templates of other records.

    Raises:
        UserError: no such dataset.
        DataError: the file is missing, cannot be downloaded or holds a bad record.
    """
    if name not in names():
        raise unknown("dataset", name, names())
    if name in own_facts():
        return _own(name)
    published = {**FILES, **KNOWN, **DATASETS}[name]
    make_source = make_source or _source_for(name)
    if published == "made":
        made = _made(name)
        return Dataset(name, made, _hash(*(repr(astuple(case)).encode() for case in made)))
    file = find(published, data_dir)
    content = content_of(file)
    spellings = Spellings.load(data_dir)
    if name in DATASETS:
        records = parse(content, file)
        source = make_source(records)
        notes = _notes(records)
        cases = tuple(_case(record, source, spellings) for record in records)
        if without := sum(not case.edit.training_paraphrases for case in cases):
            notes["no training paraphrase"] = without
        spelt = sorted(
            {(probe.answer, *probe.accepted) for case in cases for probe in case.probes if probe.accepted}
        )
        revision = _hash(content, source.version.encode(), *(repr(one).encode() for one in spelt))
    elif name in KNOWN:
        cases, notes = (
            tuple(_known(item, index, file) for index, item in enumerate(listed(content, file))),
            {},
        )
        revision = _hash(*(repr(astuple(case)).encode() for case in cases))
    else:
        cases, notes = knowedit.read(name, listed(content, file), file, make_source, spellings.of)
        revision = _hash(*(repr(astuple(case)).encode() for case in cases))
    if published.sha256 and hashlib.sha256(content).hexdigest() != published.sha256:
        notes["content differs from the published file"] = 1
    return Dataset(name, cases, revision, notes)


def _made(name: str) -> tuple[Case, ...]:
    """Return the cases of a dataset that comes with the package."""
    from lks.data import synthetic_world, worldfacts

    return {"world": synthetic_world.cases, "worldfacts": worldfacts.cases}[name]()


def _own(name: str) -> Dataset:
    """Read a dataset of user facts, with templates for its triples from NAME.toml next to it, if present."""
    file = own_facts()[name]
    if name in (*DATASETS, *KNOWN, *FILES):
        raise DataError(f"{file}: {name!r} is the name of a dataset of lks-grid. Rename the file.")
    templates = file.with_suffix(".toml")
    facts = read_facts(file, templates if templates.exists() else None)
    return replace(facts.dataset(), name=name)


def _source_for(name: str) -> MakeSource:
    """Return the default factory of the source of training prompts for a dataset."""
    from lks.data.generated_prompts import GeneratedSource, generated_file

    file = generated_file(name)
    return TemplateSource if file is None else partial(GeneratedSource, file)


def parse(content: bytes, file: Path) -> tuple[Record, ...]:
    """Read the records of an evaluation file, checking each field.

    Raises:
        DataError: not a JSON list of records, or a bad record; names file, index and field.
    """
    return tuple(_record(item, index, file) for index, item in enumerate(listed(content, file)))


class _LocalityRow(BaseModel):
    """A locality prompt with its answer."""

    prompt: Text
    target: Text


class _EvaluationRow(BaseModel):
    """A record of zsRE or CounterFact."""

    subject: Text
    prompt: Text
    target: Text
    ground_truth: Text
    generality: Text
    locality: _LocalityRow


class _KnownRow(BaseModel):
    """A fact of known_1000."""

    subject: Text
    prompt: Text
    attribute: Text


def _known(raw: object, index: int, file: Path) -> Case:
    """Read a fact of known_1000, whose answer field is called "attribute"."""
    where = f"{file}, record {index}"
    row = checked(_KnownRow, raw, where)
    _check_subject(row.subject, row.prompt, where)
    edit = Edit(str(index), row.subject, row.prompt, target=row.attribute, ground_truth=row.attribute)
    return make_case(edit, (), ())


def _check_subject(subject: str, prompt: str, where: str) -> None:
    """Raise a `DataError` if the prompt does not spell the subject."""
    if not spelt(prompt, subject):
        raise DataError(
            f"{where}: field 'prompt': subject {subject!r} is not found in {prompt!r}, "
            f"{why_unnamed(prompt, subject)}."
        )


def _record(raw: object, index: int, file: Path) -> Record:
    """Read one record of zsRE or CounterFact, checking each field."""
    where = f"{file}, record {index}"
    row = checked(_EvaluationRow, raw, where)
    _check_subject(row.subject, row.prompt, where)
    texts = row.model_dump(exclude={"locality"})
    return Record(str(index), locality=row.locality.prompt, locality_answer=row.locality.target, **texts)


def _case(record: Record, source: PromptSource, spellings: Spellings) -> Case:
    """Build a record's case with its training prompts."""
    training = source.prompts(record)
    edit = Edit(
        case_id=record.case_id,
        subject=record.subject,
        prompt=record.prompt,
        target=record.target,
        ground_truth=record.ground_truth,
        training_paraphrases=training.paraphrases,
        training_locality=training.locality,
    )
    return make_case(edit, (record.generality,), ((record.locality, record.locality_answer),), spellings.of)


def _notes(records: Sequence[Record]) -> dict[str, int]:
    """Count irregularities that are kept; those that do not occur are left out."""
    found: Counter[str] = Counter()
    for record in records:
        found["target equals ground truth"] += record.target == record.ground_truth
        found["subject not in paraphrase prompt"] += not names_subject(record.generality, record.subject)
        found["subject not in locality prompt"] += not names_subject(record.locality, record.subject)
    found["duplicate prompt"] = len(records) - len({record.prompt for record in records})
    found["duplicate subject"] = len(records) - len({record.subject for record in records})
    return {name: count for name, count in sorted(found.items()) if count}


def _hash(*parts: bytes) -> str:
    """Hash the parts to 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part + b"\0")
    return digest.hexdigest()[:16]


def irregularities(dataset: Dataset) -> str:
    """Format the notes of a dataset as one line: "15 subject not in locality prompt, ..."."""
    return ", ".join(f"{count} {note}" for note, count in dataset.notes.items() if count) or "none"
