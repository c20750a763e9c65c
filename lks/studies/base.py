"""The interface of a study: named, with parameters and a source, from entities to rows."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Self, TypeVar

from lks.editing.editor import override
from lks.edits import Edit
from lks.models.lm import LM
from lks.progress import Progress, no_progress
from lks.results.study_rows import StudyRow


@dataclass(frozen=True, slots=True)
class Entities:
    """The entities that a study is about.

    Attributes:
        edits: the facts studied, one per entity.
        pool: all facts that may lend a state, including those studied.
        draw: number of the draw.
    """

    edits: Sequence[Edit]
    pool: Sequence[Edit]
    draw: int = 0

    def row(self, edit: Edit, block: int, site: str, quantity: str, value: float) -> StudyRow:
        """Return a row with a value of one entity."""
        return StudyRow(self.draw, edit.case_id, edit.subject, block, site, quantity, float(value))


@dataclass(frozen=True, slots=True)
class Findings:
    """The results of a study.

    Attributes:
        rows: the measured values.
        left_out: reason why entities have no values -> how many.
    """

    rows: list[StudyRow]
    left_out: dict[str, int] = field(default_factory=dict)


ParamsT = TypeVar("ParamsT")


class Study(ABC, Generic[ParamsT]):
    """A study with its parameters.

    Attributes:
        title: name of the study in tables.
        source: paper, section and equation.
        params_type: the frozen dataclass of its parameters.
    """

    title: ClassVar[str]
    source: ClassVar[str]
    params_type: ClassVar[type]

    def __init__(self, params: ParamsT) -> None:
        self.params = params

    @classmethod
    def for_model(
        cls, model: str, dataset: str, n_edits: int, overrides: Mapping[str, str] | None = None
    ) -> Self:
        """Return the study with its default parameters, some overridden.

        Raises:
            UserError: an override names no parameter or does not parse as its type.
        """
        return cls(override(cls.params_type(), overrides or {}))  # type: ignore[arg-type]

    @abstractmethod
    def run(self, lm: LM, entities: Entities, seed: int = 0, progress: Progress = no_progress) -> Findings:
        """Measure the entities.

        Args:
            lm: the unedited model; the same on return as on entry.
            entities: the entities to measure.
            seed: random seed; what is drawn for an entity depends only on it and the entity.
            progress: called with the fraction done.
        """
