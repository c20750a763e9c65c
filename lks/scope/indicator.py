"""The edit scope indicator: which edited subjects a text mentions, and where (paper, Sec. 3.1).

`ExactScope`, the default, finds whole names. `FuzzyScope` also accepts one typing mistake. `OfficialScope`
follows the authors' fuzzy rules.
"""

from collections.abc import Collection, Sequence
from typing import Literal

from lks.errors import unknown
from lks.scope.exact import ExactScope, Scope
from lks.scope.fuzzy import FuzzyScope
from lks.scope.official import OfficialScope

ScopeKind = Literal["exact", "fuzzy", "official"]


def make_scope(kind: ScopeKind, names: Sequence[Sequence[str]], loose: Collection[int] = ()) -> Scope:
    """Create a scope indicator.

    Args:
        kind: "exact", "fuzzy" or "official".
        names: for each subject its name, then its aliases.
        loose: indices of subjects that are also found as part of a longer name; see `ExactScope`.

    Raises:
        UserError: no such kind.
    """
    if kind == "exact":
        return ExactScope(names, loose)
    if kind == "fuzzy":
        return FuzzyScope(names, loose)
    if kind == "official":
        return OfficialScope(names)
    raise unknown("scope", kind, ("exact", "fuzzy", "official"))
