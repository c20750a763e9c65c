"""The KnowEdit survey's tables (arXiv 2401.01286).

They hold success, portability, locality and fluency of each dataset, and general ability.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lks.results.reader import Reader
from reports import published_values
from reports.results import READOUTS, Results, query, why
from reports.tables.cell_rows import CellRow, Key, by_cell, device, missing, places, shown
from reports.tables.model import Column, Table, TableRow, Value
from reports.tables.number_formats import whole
from reports.tables.paper import Texts

METRICS = {
    "edit_success": "Success",
    "portability": "Portability",
    "locality": "Locality",
    "fluency": "Fluency",
}
"""The survey's metrics, in its order."""
SUCCESS = {"knowedit-convsent": "likelihood", "knowedit-sanitation": "likelihood"}
"""Read-out of success where it is not teacher-forced, as no second model judges the answers; see
`lks.data.knowedit`."""
KL = "knowedit-convsent"
"""The dataset whose locality is a divergence."""
PUBLISHED = "In brackets the value that the survey prints for llama-2-7b-chat and ours less that."
STRATA = {
    "portability/alias": "alias",
    "portability/reasoning": "reasoning",
    "portability/logical": "logical",
    "locality/relation_specificity": "other relations",
    "locality/forgetfulness": "other answers",
}
"""Sub-metrics of the survey, by the names of the questions here."""


def survey4(results: Results, texts: list[Texts]) -> list[Table]:
    """Return the survey's Table 4 and the table of its sub-metrics."""
    return [_knowedit(results, texts), _strata(results)]


def _knowedit(results: Results, texts: list[Texts]) -> Table:
    """Return the survey's Table 4."""
    paper: dict[Key, dict[str, float]] = {}
    for one in published_values.survey_knowedit():
        paper.setdefault((one.subject, one.model, one.method, one.n_edits), {})[one.metric] = one.value
    fluency = {row.cell_id: row for row in texts if row.prompt_set == "edit"}
    kl = {row.cell_id: row.kl_locality_nats for row in results.overview}
    everywhere = places(results)
    rows: list[TableRow] = []
    for dataset in published_values.DATASETS.values():
        own = [place for place in everywhere if place.outcome.cell.dataset == dataset]
        for place in own:
            values = _ours(results, place, fluency, kl)
            known = paper.get(place.key, {})
            marked = [
                _beside(value, _of(known, metric)) for metric, value in zip(METRICS, values, strict=True)
            ]
            rows.append(TableRow((place.n_edits, place.name, *marked), place.part + _how(dataset)))
        done = {place.key for place in own}
        for key, known in paper.items():
            if key[0] == dataset and key not in done:
                absent = [_beside(Value(why="not run"), _of(known, metric)) for metric in METRICS]
                rows.append(
                    TableRow(
                        (f"{key[3]:,}", published_values.TITLES[key[2]], *absent),
                        f"{key[1]} on {dataset}, not run here{_how(dataset)}",
                    )
                )
    columns = (Column("T"), Column("Method"), *map(Column, METRICS.values()))
    caption = (
        "Percent, ± half of the 95 % interval, clustered by subject; fluency: entropy in bits times "
        "100, after edit prompts, interval over texts. Success, portability (all questions) and "
        "locality are teacher-forced (TF token), where nothing else is said. "
    ) + PUBLISHED
    knowedit = [
        place for place in everywhere if place.outcome.cell.dataset in published_values.DATASETS.values()
    ]
    return Table(
        "survey4",
        "Survey Table 4, KnowEdit (TF token)",
        columns,
        tuple(rows),
        caption,
        2,
        "tf_token",
        device(knowedit),
    )


def _ours(
    results: Results, place: CellRow, fluency: Mapping[str, Texts], kl: Mapping[str, float | None]
) -> list[Value]:
    """Return a cell's values in the order of `METRICS`."""
    cell = place.outcome.cell
    success = of_score(results, place, SUCCESS.get(cell.dataset, "tf_token"), "reliability")
    portability = of_score(results, place, "tf_token", "portability_all")
    if cell.dataset == KL:
        divergence = kl.get(cell.id)
        locality = Value(divergence, why=reason(place, "not applicable: no locality questions"))
    else:
        locality = of_score(results, place, "tf_token", "locality")
    text = fluency.get(cell.id)
    if text is None or text.value is None:
        entropy = Value(
            why=reason(place, "not measured" if text is None else "not applicable: no text has three words")
        )
    else:
        entropy = Value(100 * text.value, _hundredfold(text.low), _hundredfold(text.high))
    return [success, portability, locality, entropy]


def _hundredfold(value: float | None) -> float | None:
    """Return 100 times a value, or None."""
    return None if value is None else 100 * value


def _of(known: Mapping[str, float], metric: str) -> float | None:
    """Return the survey's value of a metric; for locality also one that is a divergence."""
    return known.get(metric, known.get("locality_kl") if metric == "locality" else None)


def _beside(value: Value, published: float | None) -> Value:
    """Return a value with the published one.

    If both are missing, "not run" becomes "not applicable".
    """
    why = "not applicable: the survey has none" if value.why == "not run" and published is None else value.why
    return Value(value.value, value.low, value.high, published, why=why)


def _how(dataset: str) -> str:
    """Return the note on a dataset that is scored in a different way."""
    if dataset == KL:
        return " (success: likelier than the opposite; locality: KL, ours in nats, less is better)"
    return " (success: likelier than the secret)" if dataset in SUCCESS else ""


def of_score(results: Results, place: CellRow, readout: str, metric: str) -> Value:
    """Return a metric of a cell, or why it has none."""
    score = results.score(place.outcome, readout, metric)
    if score is not None and score.value is not None:
        return Value(score.value, score.low, score.high)
    return Value(
        why=reason(
            place,
            "not applicable: no such questions"
            if score is None
            else "not applicable: unedited model not run",
        )
    )


def reason(place: CellRow, otherwise: str) -> str:
    """Return why a cell failed, or `otherwise` if it did not."""
    return why(place.outcome) or otherwise


def _strata(results: Results) -> Table:
    """Return the table of kinds of portability and locality questions."""
    here = [
        place for place in places(results) if place.outcome.cell.dataset in published_values.DATASETS.values()
    ]
    columns = (
        Column("T"),
        Column("Method"),
        *(Column(name, metric.partition("/")[0].capitalize()) for metric, name in STRATA.items()),
    )
    rows = [
        TableRow(
            (place.n_edits, place.name, *(_stratum(results, place, metric) for metric in STRATA)), place.part
        )
        for place in here
    ]
    caption = (
        "Percent, ± half of the 95 % interval, clustered by subject, teacher-forced (TF token). Portability "
        "counts questions whose other facts the unedited model knows."
    )
    return Table(
        "survey4",
        "Survey Table 4, kinds of portability and locality (TF token)",
        columns,
        tuple(rows),
        caption,
        2,
        "tf_token",
        device(here),
    )


def _stratum(results: Results, place: CellRow, metric: str) -> Value:
    """Return the score of one kind of question; for portability, possibly no question counts."""
    asked = (
        metric.startswith("portability")
        and results.score(place.outcome, "tf_token", "portability_all") is not None
    )
    if asked and results.score(place.outcome, "tf_token", metric) is None:
        return Value(why="not applicable: none known")
    return of_score(results, place, "tf_token", metric)


READ = ("wild", "tf_token")
"""Read-outs of portability."""
KINDS = {
    "alias": ("alias", "the edited question with another name of the subject"),
    "reasoning": ("reasoning", "a conclusion from the edited fact and others"),
    "logical": ("logical", "what follows logically, such as the reversed relation"),
    "reverse": ("reverse", "which of two subjects the new answer belongs to"),
    "two_hop": ("two hop", "a fact about the new answer"),
}
"""Kinds of portability questions: heading and explanation. Others appear under their own names."""


def portability(results: Results) -> list[Table]:
    """Tabulate portability by kind of question and read-out."""
    asked = {
        place.outcome.cell.id
        for place in places(results)
        if results.score(place.outcome, "tf_token", "portability_all") is not None
    }
    kinds = sorted(
        {
            metric.partition("/")[2]
            for cell_id, _, metric in results.scores
            if cell_id in asked and metric.startswith("portability/")
        }
    )
    metrics = {
        "portability": "known",
        "portability_all": "all",
        **{f"portability/{kind}": _kind(kind)[0] for kind in kinds},
    }
    notes = {f"portability/{kind}": _kind(kind)[1] for kind in kinds}
    columns = [
        Column("T"),
        Column("Method"),
        Column("Known", "Questions", whole),
        Column("All", "Questions", whole),
    ]
    columns += [
        Column(heading, READOUTS[readout], note=notes.get(metric, ""))
        for readout in READ
        for metric, heading in metrics.items()
    ]
    here = shown(results, dict.fromkeys(asked))
    rows = []
    for place in here:
        counts = [_count(results, place, metric) for metric in ("portability", "portability_all")]
        values = [_ported(results, place, readout, metric) for readout in READ for metric in metrics]
        rows.append(TableRow((place.n_edits, place.name, *counts, *values), place.part))
    caption = (
        "Percent, ± half of the 95 % interval, clustered by subject. Known: questions that the unedited "
        "model answers when the edited fact is put in front, so that it knows whatever else they need; kinds "
        "count these only. All: every question, as the survey counts."
    )
    caption += "".join(f" {heading.capitalize()}: {what}." for heading, what in map(_kind, kinds) if what)
    return [
        Table(
            "portability",
            "Portability by kind of question (WILD and TF token)",
            tuple(columns),
            tuple(rows),
            caption,
            2,
            "wild, tf_token",
            device(here),
        )
    ]


def _kind(name: str) -> tuple[str, str]:
    """Return the heading and explanation of a kind of portability questions; an unknown kind has none."""
    return KINDS.get(name, (name.replace("_", " "), ""))


def _count(results: Results, place: CellRow, metric: str) -> Value:
    """Return the number of questions that a metric counts."""
    if results.score(place.outcome, "tf_token", "portability_all") is None:
        return Value(why=reason(place, "not asked"))
    score = results.score(place.outcome, "tf_token", metric)
    return Value(0 if score is None else score.n_items)


def _ported(results: Results, place: CellRow, readout: str, metric: str) -> Value:
    """Return a portability metric, or why there is none."""
    if results.score(place.outcome, readout, "portability_all") is None:
        return Value(why=reason(place, "not asked"))
    value = of_score(results, place, readout, metric)
    return value if value.value is not None else Value(why=reason(place, "not applicable: none known"))


@dataclass(frozen=True, slots=True)
class Tested:
    """A row of `sql/table_survey5.sql`, in percent."""

    cell_id: str
    task: str
    metric: str
    documents: int
    value: float
    low: float | None
    high: float | None


def survey5(results: Results, store: Reader) -> list[Table]:
    """Return the survey's Table 5: general ability after five edits."""
    found = by_cell(store.rows(Tested, query("table_survey5")))
    paper: dict[tuple[str, str, int], dict[str, float]] = {}
    for one in published_values.survey_general():
        paper.setdefault((one.model, one.method, one.n_edits), {})[one.subject] = one.value
    asked = [place.key for place in places(results) if place.key[1:] in paper]
    here = shown(results, found, asked)
    rows = []
    for place in here:
        key = place.key[1:]
        tested = {row.task: row for row in found.get(place.outcome.cell.id, ())}
        values = [
            _tested(place, tested.get(task), paper.get(key, {}).get(task)) for task in published_values.TASKS
        ]
        rows.append(TableRow((place.n_edits, place.name, *values), place.part))
    done = {place.key[1:] for place in here}
    for (model, method, n_edits), known in paper.items():
        if (model, method, n_edits) not in done:
            absent = [Value(published=known.get(task), why="not run") for task in published_values.TASKS]
            rows.append(
                TableRow((f"{n_edits:,}", published_values.TITLES[method], *absent), f"{model}, not run here")
            )
    columns = (Column("T"), Column("Method"), *(Column(task) for task in published_values.TASKS))
    caption = (
        "Percent of documents, ± half of the 95 % interval over documents: right answers (acc or exact "
        f"match), where a test has them. Edits are of the dataset named. {PUBLISHED} How the survey asks and "
        "scores is not in its table; ours is lm-eval's way."
    )
    return [
        Table(
            "survey5",
            "Survey Table 5, general ability (lm-eval)",
            columns,
            tuple(rows),
            caption,
            2,
            "lm-eval",
            device(here),
        )
    ]


def _tested(place: CellRow, row: Tested | None, published: float | None) -> Value:
    """Return the score of a test, with the published one."""
    if row is None:
        return Value(published=published, why=missing(place.outcome, "ability"))
    return Value(row.value, row.low, row.high, published)
