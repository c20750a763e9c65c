"""Published values as the papers print them, and the papers' names of our methods, datasets and metrics."""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "published"

TITLES = {
    "none": "unedited",
    "lks": "LKS",
    "rome": "ROME",
    "memit": "MEMIT",
    "mend": "MEND",
    "grace": "GRACE",
    "wise": "WISE",
    "alphaedit": "AlphaEdit",
    "serac": "SERAC",
    "ice": "ICE",
    "adalora": "AdaLoRA",
    "ft": "FT-M",
    "ft_l": "FT-L",
}
"""Titles of the methods that have published values; methods that were run bring their own titles."""

METHODS = {"ft-l": "ft_l", "ft-m": "ft"}
"""The survey's names of methods that have a different name here."""

DATASETS = {
    "wiki_recent": "knowedit-recent",
    "zsre": "knowedit-zsre",
    "wiki_counterfact": "knowedit-counterfact",
    "wikibio": "knowedit-wikibio",
    "convsent": "knowedit-convsent",
    "sanitation": "knowedit-sanitation",
}
"""The survey's datasets in its order, with their names here."""

TASKS = ("commonsense_qa", "piqa", "triviaqa", "xsum", "mmlu", "agieval")
"""The survey's tests of general ability, in its order."""


@dataclass(frozen=True, slots=True)
class Survey:
    """A value of the survey's Table 4 or 5.

    `subject` is the dataset (our name) or the task; `metric` is empty for tasks.
    """

    subject: str
    model: str
    method: str
    n_edits: int
    metric: str
    value: float


@dataclass(frozen=True, slots=True)
class Preset:
    """A row of the paper's Tables 2 and 4."""

    dataset: str
    model: str
    n_edits: int
    lambda_edit: float
    max_epochs: int
    batch_size: int


@cache
def survey_knowedit() -> tuple[Survey, ...]:
    """Return the survey's Table 4 under our names of methods and datasets."""
    return tuple(
        Survey(
            DATASETS[r["dataset"]],
            r["model"],
            _method(r["method"]),
            int(r["n_edits"]),
            r["metric"],
            float(r["value"]),
        )
        for r in _rows("survey_table4_knowedit")
    )


@cache
def survey_general() -> tuple[Survey, ...]:
    """Return the survey's Table 5 under our names of methods."""
    return tuple(
        Survey(r["task"], r["model"], _method(r["method"]), int(r["n_edits"]), "", float(r["value"]))
        for r in _rows("survey_table5_general")
    )


@cache
def presets() -> tuple[Preset, ...]:
    """Return the rows of the paper's Tables 2 and 4."""
    return tuple(
        Preset(
            r["dataset"],
            r["model"],
            int(r["n_edits"]),
            float(r["lambda_edit"]),
            int(r["max_epochs"]),
            int(r["batch_size"]),
        )
        for r in _rows("table2_table4")
    )


@cache
def fluency() -> dict[tuple[str, str, str, int], float]:
    """Return the paper's Table 5: (dataset, model, method, T) -> entropy in bits."""
    return {
        (r["dataset"], r["model"], r["method"], int(r["n_edits"])): float(r["value"])
        for r in _rows("table5_fluency")
    }


def _method(name: str) -> str:
    """Return our name of a method of the survey."""
    return METHODS.get(name, name)


def _rows(name: str) -> list[dict[str, str]]:
    """Read a CSV file of published values."""
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
