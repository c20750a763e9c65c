"""Other spellings of an answer that count as right in free generation: "USA" for "United States of America".

They come from a file of Wikidata labels and aliases (`entity_aliases/aliases.json` in the data folder,
{label: [aliases]}). Without the file there are none, and an answer is right only as the dataset spells it.
For spellings of *subjects* see `lks.edits.spellings_of`.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import RootModel

from lks.data.download import BESIDE, named_folder
from lks.errors import DataError
from lks.io.records import checked
from lks.io.untrusted import parse_json

_ARTICLES = frozenset(("the", "a", "an"))
FILE = Path("entity_aliases", "aliases.json")


class _Aliases(RootModel[dict[str, list[str]]]):
    """The content of the file."""


class Spellings:
    """A table of entity names that can be looked up by any of an entity's names."""

    def __init__(self, aliases: Mapping[str, Iterable[str]] | None = None) -> None:
        self._names = {
            label: tuple(dict.fromkeys((label, *others))) for label, others in (aliases or {}).items()
        }
        owners = Counter(name for names in self._names.values() for name in names[1:])
        self._labels = {
            name: label for label, names in self._names.items() for name in names[1:] if owners[name] == 1
        }

    @classmethod
    def load(cls, data_dir: Path | None = None) -> "Spellings":
        """Load spellings from the data folder; return an empty table if the file does not exist.

        Args:
            data_dir: the folder that holds `entity_aliases/aliases.json`; None uses `LKS_DATA`, then
                `shared/data` next to the checkout.

        Raises:
            DataError: the file cannot be read or is not an object whose values are lists of names.
        """
        file = (named_folder(data_dir) or BESIDE) / FILE
        if not file.is_file():
            return cls()
        try:
            raw = parse_json(file.read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(f"{file} is not JSON or cannot be read: {error}. Fix or delete it.") from error
        names = checked(_Aliases, raw, str(file), "file").root
        return cls({label.strip(): [other.strip() for other in others] for label, others in names.items()})

    def of(self, answer: str) -> tuple[str, ...]:
        """Return all other names of the entity that an answer names; matching is case-sensitive.

        For a label, these are its aliases. For any other name they are its label and the label's other
        aliases, provided that the name belongs to one label only. The answer itself is never included, nor is
        a name that is too short to be told apart from noise (`tellable`).
        """
        name = answer.strip()
        names = self._names.get(name) or self._names.get(self._labels.get(name, ""), ())
        return tuple(other for other in names if other != name and tellable(other))


def tellable(name: str) -> bool:
    """Return whether a name has more than one character left without case, punctuation and articles.

    "fr" has; "F", "C++", "🇫🇷" and "The" have not.
    """
    words = re.findall(
        r"\w+", unicodedata.normalize("NFKC", name).casefold()
    )  # unlike questions, answers are compared without symbols
    return len(" ".join(word for word in words if word not in _ARTICLES)) > 1
