"""Templates that turn triples (subject, relation, object) into prompts."""

import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from lks.data.fact_parsing import FactRow
from lks.data.fact_validation import Bad
from lks.errors import DataError, similar, unknown
from lks.io.untrusted import content_of, one_line, parse_json

DEFAULT = "The {relation} of {{}} is"
"""Prompt of a relation without a template; suitable for relations that are nouns."""
LISTS = ("paraphrases", "training_paraphrases", "training_locality")


@dataclass(frozen=True, slots=True)
class Wording:
    """Templates of one relation; each has `{}` for the subject.

    Attributes:
        prompt: the edit prompt.
        lists: "paraphrases" (evaluated), "training_paraphrases", "training_locality" -> templates.
    """

    prompt: str
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


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
        return cls(
            {name: _wording(path, name, entry) for name, entry in cast(dict[str, object], raw).items()}
        )

    def of(self, relation: str) -> Wording:
        """Return the wording of a relation; the default one if it has none."""
        self.used = True
        if relation in self._known:
            return self._known[relation]
        self._plain[relation] += 1
        return Wording(DEFAULT.format(relation=relation.replace("_", " ").replace("{", "").replace("}", "")))

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


def spelt_out(row: FactRow, templates: Templates) -> tuple[FactRow, list[Bad]]:
    """Turn a row with a relation into a row with a prompt; return any other row unchanged."""
    given = [name for name in ("relation", "object") if row.text(name).strip()]
    if not given:
        return row, []
    if len(given) < 2 or row.text("prompt") or row.text("target"):
        return row, [Bad(row.line, "give prompt and target, or relation and object, not a mixture of them")]
    wording, subject = templates.of(row.text("relation").strip()), row.text("subject").strip()
    made: dict[str, object] = {"prompt": wording.prompt.format(subject), "target": row.text("object")}
    for name in LISTS:
        made[name] = (*row.texts(name), *(one.format(subject) for one in wording.lists.get(name, ())))
    return FactRow(row.line, {**row.values, **made}), []


def _wording(path: Path, name: str, entry: object) -> Wording:
    """Read one entry of a template file."""
    where = f"{path}, relation {name!r}"
    table = {"prompt": entry} if isinstance(entry, str) else entry
    if not isinstance(table, dict):
        raise DataError(f"{where}: must be a prompt or a table with a prompt.")
    for key in table:
        if key not in ("prompt", *LISTS):
            raise DataError(f"{where}: {unknown('key', str(key), ('prompt', *LISTS))}")
    prompt, lists = table.get("prompt"), {key: table.get(key, []) for key in LISTS}
    templates = [
        prompt,
        *(one for entries in lists.values() for one in (entries if isinstance(entries, list) else [entries])),
    ]
    for one in templates:
        if not isinstance(one, str) or one.count("{}") != 1 or one.count("{") != 1 or one.count("}") != 1:
            raise DataError(
                f"{where}: {one_line(repr(one))} is not a template; write a text with one {{}} in "
                "place of the subject."
            )
    return Wording(
        cast(str, prompt), {key: tuple(cast(list[str], entries)) for key, entries in lists.items()}
    )
