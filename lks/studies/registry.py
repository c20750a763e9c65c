"""Registry of studies, by name in `STUDIES`: measurements of where the unedited model keeps facts.

A study takes the place of a method in a grid with `measure = "study"`: its parameters are part of the cell's
identity, T is the number of entities, and its rows (`lks.results.study_rows`) are the cell's only shard.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from lks.edits import Case
from lks.evaluation.profiling import measured
from lks.models.lm import LM
from lks.progress import Progress
from lks.results.cells import Cell, Costs
from lks.results.study_rows import StudyRow
from lks.studies.base import Entities, Study
from lks.studies.causal_tracing import Tracing
from lks.studies.information_gain import Gain
from lks.studies.probe import StateProbe
from lks.studies.swap import Swap

STUDIES: Mapping[str, type[Study[object]]] = MappingProxyType(
    {"probe": StateProbe, "swap": Swap, "gain": Gain, "tracing": Tracing}  # type: ignore[dict-item]
)
"""Every study by name."""


def findings_of(
    cell: Cell,
    study: Study[object],
    sets: Sequence[Sequence[Case]],
    others: Sequence[Case],
    lm: LM,
    progress: Callable[[str, int], Progress],
) -> tuple[list[StudyRow], Costs, dict[str, str]]:
    """Run a study cell and return its rows, costs and notes.

    Args:
        cell: the cell to run.
        study: the study with the cell's parameters.
        sets: draws of the cell.
        others: cases of no draw, which may be donors.
        lm: the model, which is not changed.
        progress: returns the progress callback of a stage and draw.
    """
    rows: list[StudyRow] = []
    left_out: dict[str, int] = {}
    with measured() as meter:
        for number, cases in enumerate(sets):
            entities = Entities(
                [case.edit for case in cases], [case.edit for case in (*cases, *others)], number
            )
            found = study.run(lm, entities, cell.seed, progress("study", number))
            rows += found.rows
            for why, count in found.left_out.items():
                left_out[why] = left_out.get(why, 0) + count
    notes = {"left out": ", ".join(f"{count} {why}" for why, count in left_out.items() if count) or "none"}
    return rows, Costs(ask_s=meter.seconds, peak_bytes=meter.peak_bytes), notes
