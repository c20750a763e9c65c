"""Templates that turn triples (subject, relation, object) into prompts."""

import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel

from lks.data.fact_parsing import FactFields, FactRow
from lks.data.fact_validation import Bad
from lks.errors import DataError, similar
from lks.io.records import checked
from lks.io.untrusted import content_of, one_line, parse_json

DEFAULT = "The {relation} of {{}} is"
"""Prompt of a relation without a template; suitable for relations that are nouns."""
LISTS = ("paraphrases", "training_paraphrases", "training_locality")


def _template(text: str) -> str:
    """Return a text that must be a template."""
    if not text.count("{}") == text.count("{") == text.count("}") == 1:
        raise ValueError("must be a template, a text with one {} in place of the subject")
    return text


Template = Annotated[str, AfterValidator(_template)]


class Wording(BaseModel, extra="forbid"):
    """Templates of one relation: of the edit prompt, of evaluated prompts, and of those trained on."""

    prompt: Template
    paraphrases: tuple[Template, ...] = ()
    training_paraphrases: tuple[Template, ...] = ()
    training_locality: tuple[Template, ...] = ()


class Templates:
    """Wordings by relation, with a record of which were used.

    Args:
        known: relation -> wording.
    """

    def __init__(self, known: Mapping[str, Wording]) -> None:
        self._known = known
        self._plain: Counter[str] = Counter()
        self.used = False

    @classmethod
    def read(cls, path: Path | None) -> "Templates":
        """Read a TOML or JSON file.

        It maps each relation to a prompt, or to a table with prompt, paraphrases, training_paraphrases and
        training_locality.

        Raises:
            DataError: the file cannot be read, or one of its entries is bad.
        """
        if path is None:
            return cls({})
        try:
            text = content_of(path).decode()
            raw = parse_json(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
        except FileNotFoundError:
            raise DataError(
                f"{path} does not exist. Give a TOML or JSON file with a line like: birthplace = "
                f'"The birthplace of {{}} is"'
            ) from None
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path} is not {'JSON' if path.suffix.lower() == '.json' else 'TOML'}: {one_line(error)}."
            ) from None
        if not isinstance(raw, dict):
            raise DataError(
                f'{path} must map relations to prompts: {{"birthplace": "The birthplace of {{}} is"}}.'
            )
        tables = {name: {"prompt": one} if isinstance(one, str) else one for name, one in raw.items()}
        return cls(
            {
                name: checked(Wording, table, f"{path}, relation {name!r}", "entry")
                for name, table in tables.items()
            }
        )

    def of(self, relation: str) -> Wording:
        """Return the wording of a relation; the default one if it has none."""
        self.used = True
        if relation in self._known:
            return self._known[relation]
        self._plain[relation] += 1
        return Wording(
            prompt=DEFAULT.format(relation=relation.replace("_", " ").replace("{", "").replace("}", ""))
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Relations that were asked in the default wording."""
        asked = [
            f"{name!r} ({count}): {Templates({}).of(name).prompt.format('...')!r}{self._meant(name)}"
            for name, count in self._plain.items()
        ]
        return (f"without a template, asked in the default wording: {', '.join(asked)}",) if asked else ()

    def _meant(self, name: str) -> str:
        """Suggest known relations that a name may be a misspelling of."""
        near = similar(name, self._known)
        return f" (or is {' or '.join(map(repr, near))} meant?)" if near else ""


def spelt_out(row: FactRow, templates: Templates) -> tuple[FactFields, list[Bad]]:
    """Return the fields of a row, those with a relation turned into fields with a prompt."""
    fields = row.fields
    if not (fields.relation or fields.object):
        return fields, []
    if not (fields.relation and fields.object) or fields.prompt or fields.target:
        return fields, [
            Bad(row.line, "give prompt and target, or relation and object, not a mixture of them")
        ]
    wording, subject = templates.of(fields.relation), fields.subject
    made: dict[str, object] = {"prompt": wording.prompt.format(subject), "target": fields.object}
    for name in LISTS:
        made[name] = (*getattr(fields, name), *(one.format(subject) for one in getattr(wording, name)))
    return fields.model_copy(update=made), []
