"""The testbed models: their names, where each is, and by which recipe it is trained."""

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import lks.io.cache
from lks.data.datasets import DATASETS
from lks.errors import UserError, unknown
from lks.models.recipe import Recipe, TestbedShape

NAMES = ("micro-llama", "micro-mistral", "mini-zsre", "mini-counterfact")
# versions of the code that runs a recipe; a change makes earlier models different models
VERSIONS = {"world": 1, "zsre": 2, "counterfact": 2}

ECONOMICAL_ABOVE = 2_000
"""Number of records of a mini model above which the economical training is used."""

_HEADS = {"micro": (7, 24), "mini": (3, 0)}
_SHAPES = {
    "micro-llama": TestbedShape("llama"),
    "micro-mistral": TestbedShape("mistral", kv_heads=2, hidden=416, window=32),
    "mini": TestbedShape("llama", dim=256, hidden=640, heads=8, kv_heads=8),
}


@dataclass(frozen=True, slots=True)
class TestbedModel:
    """A testbed model to build.

    Attributes:
        name: "micro-llama", "micro-mistral" or "mini".
        dataset: "world", "zsre" or "counterfact".
        records: number of records of the dataset; 0 for the synthetic world.
        recipe: recipe of the training.
    """

    name: str
    dataset: str
    records: int
    recipe: Recipe

    @property
    def hash(self) -> str:
        """Identity of the recipe, 8 hex digits.

        A field that was added later counts only where it is used: models built before it keep their identity.
        """
        fields = asdict(self.recipe)
        if not self.recipe.economical:
            del fields["economical"]
        text = json.dumps(
            [VERSIONS[self.dataset], self.name, self.dataset, self.records, fields], sort_keys=True
        )
        return sha256(text.encode()).hexdigest()[:8]

    @property
    def label(self) -> str:
        """Name of the model: "micro-llama", "mini-zsre-1000"."""
        return self.name if self.dataset == "world" else f"mini-{self.dataset}-{self.records}"


def recipe_of(name: str, records: int = 0, seed: int = 0) -> Recipe:
    """Return the recipe of a model; a mini model is trained in proportion to its records."""
    shape = _SHAPES[name]
    if name != "mini":
        return Recipe(shape, heads=_HEADS["micro"], seed=seed)
    economical = records > ECONOMICAL_ABOVE
    steps = round(0.7 * records) if economical else max(200, round(1.6 * records**0.95))
    return Recipe(
        shape, steps=steps, rows=128, lr_adam=0.002, heads=_HEADS["mini"], seed=seed, economical=economical
    )


def job_of(name: str, dataset: str, records: int, seed: int) -> TestbedModel:
    """Return the model to build for a name and options; "mini-zsre-1000" may be given as one name."""
    if name.startswith("mini"):
        parts = name.split("-")
        dataset = parts[1] if len(parts) > 1 else dataset
        if len(parts) > 2:
            if not parts[2].isdigit():
                raise UserError(f"{name!r} should read mini-DATASET-RECORDS, for example mini-zsre-1000.")
            records = int(parts[2])
        real = [known for known, place in DATASETS.items() if place != "made"]
        if dataset not in real:
            raise unknown("dataset of a mini model", dataset, real)
        if not 50 <= records <= 10_000:
            raise UserError(f"A mini model knows 50 to 10000 records, not {records}.")
        return TestbedModel("mini", dataset, records, recipe_of("mini", records, seed))
    if name not in _SHAPES:
        raise unknown("testbed model", name, NAMES)
    if dataset not in ("world", ""):
        raise UserError(
            f"{name} knows the synthetic world. For {dataset!r} build a mini model: lks testbed build mini "
            f"--dataset {dataset}."
        )
    return TestbedModel(name, "world", 0, recipe_of(name, 0, seed))


def default_folder(job: TestbedModel) -> Path:
    """Return the included folder if it holds this exact model, else a folder of the cache."""
    shipped = Path(__file__).parent / "weights" / job.name
    if job.dataset == "world" and (job.recipe.seed == 0 or is_built(shipped, job)):
        return shipped
    return lks.io.cache.folder() / f"{job.label}-{job.hash}"


def model_folder(name: str) -> Path:
    """Return where a model is, or would be once it is built.

    Args:
        name: one of `NAMES`, or mini-DATASET-RECORDS.

    Raises:
        UserError: there is no such model.
    """
    return default_folder(job_of(name, "" if not name.startswith("mini") else "zsre", 10_000, 0))


def is_built(folder: Path, job: TestbedModel) -> bool:
    """Return whether a folder holds the finished model of a job."""
    try:
        recipe = json.loads((folder / "recipe.json").read_text())
    except (OSError, ValueError):
        return False
    return (
        isinstance(recipe, dict)
        and recipe.get("hash") == job.hash
        and (folder / "model.safetensors").is_file()
    )


def build_command(name: str) -> str:
    """Return the command that builds a testbed model named mini-DATASET[-RECORDS]."""
    parts = name.split("-")
    if parts[0] != "mini" or len(parts) < 2:
        return f"lks testbed build {name}"
    records = f" --records {parts[2]}" if len(parts) > 2 else ""
    return f"lks testbed build --dataset {parts[1]}{records}"
