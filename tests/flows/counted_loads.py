"""The flow `lks-cell` as it is, for workers; each load of a model is a line in the results folder: process
and model.
"""

import os
from pathlib import Path

import flows.cell
import lks.runs.cell
from lks.models.lm import LM


def counted(load=LM.load):
    """`LM.load` that writes itself down in LKS_RESULTS/loads.log."""

    def noted(name: str, *others: object, **further: object) -> LM:
        with (Path(os.environ["LKS_RESULTS"]) / "loads.log").open("a") as log:
            log.write(f"{os.getpid()} {name}\n")
        return load(name, *others, **further)

    return noted


lks.runs.cell.LM.load = counted()
flow_cell = flows.cell.cell
