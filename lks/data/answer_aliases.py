"""Other spellings of an answer, right in free generation: "USA" where the answer is "United States of America".

They come from a file of Wikidata labels and aliases (`entity_aliases/aliases.json` in the data folder, {label: [aliases]}). Without
the file there are none, and an answer is right only as the dataset spells it. Spellings of *subjects* are `lks.edits.spellings_of`.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from lks.data.download import BESIDE, named_folder
from lks.errors import DataError
from lks.io.untrusted import parse_json

_ARTICLES = frozenset(("the", "a", "an"))
FILE = Path("entity_aliases", "aliases.json")


class Spellings:
    """Names of entities, looked up by any of them."""

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
        """Spellings from the data folder; none if the file is not there.

        Args:
            data_dir: where `entity_aliases/aliases.json` is; None looks at `LKS_DATA`, then at `shared/data` beside the checkout.

        Raises:
            DataError: the file cannot be read or is no object of lists of names.
        """
        file = (named_folder(data_dir) or BESIDE) / FILE
        if not file.is_file():
            return cls()
        try:
            raw = parse_json(file.read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(f"{file} is not JSON or cannot be read: {error}. Fix or delete it.") from error
        if not isinstance(raw, dict):
            raise DataError(
                f"{file} must hold a JSON object of names, each with a list of other names. Fix or delete it."
            )
        for label, others in raw.items():
            if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
                raise DataError(
                    f"{file}: field {label!r} must be a list of names, not {others!r}. Fix or delete it."
                )
        return cls({label.strip(): [other.strip() for other in others] for label, others in raw.items()})

    def of(self, answer: str) -> tuple[str, ...]:
        """All other names of what an answer names; case counts.

        A label has its aliases. Any other name has its label and the label's other aliases, if it belongs to one label only. The
        answer itself is never among them, nor is a name that could not be told from noise (`tellable`).
        """
        name = answer.strip()
        names = self._names.get(name) or self._names.get(self._labels.get(name, ""), ())
        return tuple(other for other in names if other != name and tellable(other))


def tellable(name: str) -> bool:
    """Whether more than one character is left once case, punctuation and articles are away: "fr" is, "F", "C++", "🇫🇷" and "The" are not."""
    words = re.findall(
        r"\w+", unicodedata.normalize("NFKC", name).casefold()
    )  # answers are compared without signs, unlike questions
    return len(" ".join(word for word in words if word not in _ARTICLES)) > 1
