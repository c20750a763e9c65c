"""Published values as the papers print them, and what the papers call our methods, datasets and metrics."""

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
"""Titles of the methods that have published values; a method that was run brings its own."""

METHODS = {"ft-l": "ft_l", "ft-m": "ft"}
"""The survey's names of methods that have another name here."""

DATASETS = {
    "wiki_recent": "knowedit-recent",
    "zsre": "knowedit-zsre",
    "wiki_counterfact": "knowedit-counterfact",
    "wikibio": "knowedit-wikibio",
    "convsent": "knowedit-convsent",
    "sanitation": "knowedit-sanitation",
}
"""The survey's datasets in its order, and what they are called here."""

TASKS = ("commonsense_qa", "piqa", "triviaqa", "xsum", "mmlu", "agieval")
"""The survey's tests of general ability in its order."""


@dataclass(frozen=True, slots=True)
class Survey:
    """A value of the survey's Table 4 or 5; `subject` is the dataset (our name) or the task, `metric` is empty for tasks."""

    subject: str
    model: str
    method: str
    n_edits: int
    metric: str
    value: float


@dataclass(frozen=True, slots=True)
class Preset:
    """A line of the paper's Tables 2 and 4."""

    dataset: str
    model: str
    n_edits: int
    lambda_edit: float
    max_epochs: int
    batch_size: int


@cache
def survey_knowedit() -> tuple[Survey, ...]:
    """The survey's Table 4, under our names of methods and datasets."""
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
    """The survey's Table 5, under our names of methods."""
    return tuple(
        Survey(r["task"], r["model"], _method(r["method"]), int(r["n_edits"]), "", float(r["value"]))
        for r in _rows("survey_table5_general")
    )


@cache
def presets() -> tuple[Preset, ...]:
    """The paper's Tables 2 and 4."""
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
    """(dataset, model, method, T) -> entropy in bits, from the paper's Table 5."""
    return {
        (r["dataset"], r["model"], r["method"], int(r["n_edits"])): float(r["value"])
        for r in _rows("table5_fluency")
    }


def _method(name: str) -> str:
    return METHODS.get(name, name)


def _rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
