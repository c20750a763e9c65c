"""The files of KnowEdit (Zhang et al. 2024, arXiv 2401.01286): which they are, and how their fields are read.

The files write the same thing in many ways: an answer is a string, a list of strings or a list of alias
lists; questions are sorted by key, single or in lists, or missing. All of these are accepted; empty values
are left out and counted, and a value of another type is an error that names file, record and field.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from lks.data.download import Published
from lks.errors import DataError
from lks.io.records import shown

_COPY = ("YJiangcm/LTE", "b8fb59b90d54e5e77095dc06f0b5e0da9a2d5340")
_FOLDER = "EasyEdit/data/knowedit"
_QUESTIONS = 'locality (may be absent): {"<kind>": [{"prompt", "ground_truth"}]}'

FILES: dict[str, Published] = {
    "knowedit-zsre": Published(
        "knowedit/ZsRE-test-all.json",
        f"{_FOLDER}/ZsRE/ZsRE-test-all.json",
        "701add2223886ada5f6b5c2aa18b69109a2e33928ef41adc69dde7b95b22b3ab",
        *_COPY,
    ),
    "knowedit-recent": Published(
        "knowedit/wiki_recent_train.json",
        f"{_FOLDER}/wiki_recent/recent_train.json",
        "5856107412ddeeae2ceea2a15ebd125fd7c86ac8d62b933b095514304a77c73a",
        *_COPY,
    ),
    "knowedit-counterfact": Published(
        "knowedit/wiki_counterfact_train_cf.json",
        f"{_FOLDER}/wiki_counterfact/train_cf.json",
        "acdc01922afab1d4122249a2c22ad8c1e0e86506dd7a28eec698f22d175ebf9d",
        *_COPY,
    ),
    "knowedit-wikibio": Published(
        "knowedit/wikibio-test-all.json",
        f"{_FOLDER}/WikiBio/wikibio-test-all.json",
        "00933f69b47d8281d01f1f4b84f3f266b7482a65a7d74022e660a8a9ca2264a4",
        *_COPY,
    ),
    "knowedit-convsent": Published(
        "knowedit/blender_test.json",
        "",
        "",
        records="records with topic, prompts (one or a list; one at least names the topic), "
        "pos and neg (a response or a list of them), "
        f'sentiment ("pos" or "neg", the one to edit in; may be absent) and {_QUESTIONS}',
    ),
    "knowedit-sanitation": Published(
        "knowedit/trivia_qa_test.json",
        "",
        "",
        records="records with question, ground_truth (the secret: an answer or a list of them), "
        "target_new (the refusal; may be absent), "
        f"subject (as the question spells it; may be absent), "
        f"rephrase_prompt (may be absent) and {_QUESTIONS}",
    ),
}

_SHORT = {"subject_aliasing": "alias", "logical_generalization": "logical"}
Group = tuple[str, ...]
"""One right answer under all its names, its main name first."""


@dataclass(frozen=True, slots=True)
class KnowEditQuestion:
    """An evaluation question in addition to the edit prompt.

    Attributes:
        kind: what it measures.
        stratum: subdivision of the kind: the file's key in snake case, "alias" for Subject_Aliasing,
            "logical" for Logical_Generalization.
        prompt: the question.
        answers: right answers, at least one.
    """

    kind: Literal["locality", "portability"]
    stratum: str
    prompt: str
    answers: tuple[Group, ...]


class Fields:
    """One record, read field by field.

    Args:
        raw: the record as JSON gives it.
        where: file and number of the record, for error messages.
        notes: counts what is left out.

    Raises:
        DataError: the record, or later a field, has another type than the file's schema says; names record
            and field.
    """

    def __init__(self, raw: object, where: str, notes: Counter[str]) -> None:
        self._where, self.notes = where, notes
        if not isinstance(raw, dict):
            raise DataError(
                f"{where}: the record must be an object, not {type(raw).__name__}. Fix or delete the record."
            )
        self._raw: dict[str, object] = raw

    def __contains__(self, name: str) -> bool:
        return bool(self._raw.get(name))

    def text(self, *names: str) -> str:
        """Return the first of the named fields that is present, which must be a non-empty string."""
        name = next((name for name in names if name in self._raw), None)
        if name is None:
            raise self._bad(" or ".join(repr(name) for name in names), "is missing. Add it")
        value = self._raw[name]
        if not isinstance(value, str) or not value.strip():
            raise self._bad(repr(name), f"must be a non-empty string, not {shown(value)}. Fix it")
        return value.strip()

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a string or a list of strings without duplicates; empty if the field is empty or missing."""
        return tuple(dict.fromkeys(text for group in self.answers(name) for text in group))

    def some(self, name: str) -> tuple[str, ...]:
        """Return a string or a list of strings as at least one string."""
        found = self.texts(name)
        if not found:
            raise self._bad(repr(name), "is missing or empty. Add it")
        return found

    def one_of(self, name: str, known: Sequence[str]) -> str:
        """Return a string that must be one of the known ones."""
        found = self.text(name)
        if found not in known:
            raise self._bad(
                repr(name), f"must be {' or '.join(map(repr, known))}, not {shown(found)}. Fix it"
            )
        return found

    def answers(self, name: str) -> tuple[Group, ...]:
        """Return the right answers; none if the field is empty or missing."""
        return self._groups(self._raw.get(name), name)

    def items(self, kind: Literal["locality", "portability"]) -> tuple[KnowEditQuestion, ...]:
        """Return the questions of a kind; those without a prompt or an answer are left out and counted."""
        value = self._raw.get(kind) or {}
        if not isinstance(value, dict | list):
            raise self._bad(
                repr(kind), f"must be an object or a list of questions, not {shown(value)}. Fix it"
            )
        keyed = {"": value} if isinstance(value, list) or "prompt" in value else value
        found = [
            self._item(kind, key, one, f"{kind}.{key}" if key else kind)
            for key, some in keyed.items()
            for one in _each(some)
        ]
        self.notes[f"{kind} question without prompt or answer, left out"] += found.count(None)
        self.notes[f"no {kind} question"] += not any(found)
        return tuple(item for item in found if item)

    def _item(
        self, kind: Literal["locality", "portability"], key: str, raw: object, name: str
    ) -> KnowEditQuestion | None:
        """Read one question; None if it has no prompt or no answer."""
        if not isinstance(raw, dict):
            raise self._bad(
                repr(name), f"must hold questions with prompt and ground_truth, not {shown(raw)}. Fix it"
            )
        prompt = raw.get("prompt") or ""
        if not isinstance(prompt, str):
            raise self._bad(repr(f"{name}.prompt"), f"must be a string, not {shown(prompt)}. Fix it")
        answers = self._groups(raw.get("ground_truth"), f"{name}.ground_truth")
        stratum = "_".join(key.lower().replace("-", " ").split())
        return (
            KnowEditQuestion(kind, _SHORT.get(stratum, stratum), prompt.strip(), answers)
            if prompt.strip() and answers
            else None
        )

    def _groups(self, value: object, name: str) -> tuple[Group, ...]:
        """Read the right answers of a field, leaving out and counting empty ones."""
        try:
            groups = answer_groups(value)
        except TypeError as error:
            raise self._bad(repr(name), f"{error}. Fix it") from None
        found = tuple(group for group in groups if group)
        self.notes["empty answer beside others, left out"] += len(groups) - len(found) if found else 0
        return found

    def _bad(self, name: str, complaint: str) -> DataError:
        """Return the error for a bad field."""
        return DataError(f"{self._where}: field {name} {complaint} or delete the record.")


def answer_groups(value: object) -> list[Group]:
    """Read right answers from any of the published formats; a group is empty where the file names nothing.

    A string is one answer. In a list every entry is a right answer, itself a name or a list of names of the
    same thing: `[["a", "a alias"], ["b"]]` says that "a", also called "a alias", and "b" are right. The data
    confirms this: several entries are several occupations, citizenships or cast members. None, "" and {} mean
    no answer.

    Raises:
        TypeError: another format.
    """
    if value is None or value == {} or value == "":
        return []
    return [_group(entry) for entry in (value if isinstance(value, list) else [value])]


def _group(entry: object) -> Group:
    """Read the names of one right answer."""
    names = entry if isinstance(entry, list) else [entry]
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"must be a string, a list of strings or a list of lists of strings; {shown(name)} is in it"
            )
    texts = [str(name).strip() for name in names]
    return tuple(dict.fromkeys(text for text in texts if text))


def _each(value: object) -> Iterable[object]:
    """Return the entries of a list, or the value itself as the only entry if it is not empty."""
    return value if isinstance(value, list) else [value] if value else []
