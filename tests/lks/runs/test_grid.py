"""Grids: the shipped ones, their plan, and one clear line for each thing a user can get wrong."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from lks.editing.editor import Editor, NoParams
from lks.editing.patch import NoPatch, Patch
from lks.edits import Edit
from lks.errors import TooManyEdits, UserError, unknown
from lks.models.lm import LM
from lks.progress import Progress, no_progress
from lks.results.cells import Cell
from lks.runs.grid import Grid, grids
from lks.runs.plan import parse_only, plan
from tests.helpers.root import ROOT

SHIPPED = ROOT / "flows" / "grids.toml"


class Nothing(Editor[NoParams]):
    """The unedited model."""

    title, source, changes, regime = "Unedited", "", "nothing", "simultaneous"
    params_type: ClassVar[type] = NoParams
    presets: ClassVar[Mapping[str, Callable[[int, str], object]]] = {
        "default": lambda n_edits, dataset: NoParams()
    }

    def edit(self, lm: LM, edits: Sequence[Edit], seed: int = 0, progress: Progress = no_progress) -> Patch:
        """Nothing."""
        return NoPatch()


@dataclass(frozen=True, slots=True)
class Knobs:
    """Parameters with a preset that depends on T."""

    epochs: int
    lr: float = 0.01
    hypernetwork: Literal["linear", "mlp", "free"] = "linear"
    key: Literal["edit", "entity"] = "edit"
    positions: Literal["last", "all"] = "last"
    optimisation: Literal["joint", "alternating"] = "joint"


class Scalpel(Nothing):
    """A method with parameters."""

    params_type: ClassVar[type] = Knobs
    presets: ClassVar[Mapping[str, Callable[[int, str], object]]] = {
        "default": lambda n_edits, dataset: Knobs(10 if n_edits == 1 else 20)
    }


@dataclass(frozen=True, slots=True)
class Compatible:
    """Parameters of a method that can do as the public code does."""

    compat: Literal["published", "easyedit"] = "published"


class Rank(Nothing):
    """A method with presets for small models only."""

    params_type: ClassVar[type] = Compatible
    presets: ClassVar[Mapping[str, Callable[[int, str], object]]] = {
        "micro": lambda n_edits, dataset: Compatible()
    }


METHODS: dict[str, type[Editor[object]]] = {
    "none": Nothing,
    "ft": Scalpel,
    "lks": Scalpel,
    "rome": Rank,
    "mend": Rank,
}  # type: ignore[dict-item]
SIZES = {
    "world": 1000,
    "worldfacts": 898,
    "known1000": 1209,
    "zsre": 10_000,
    "counterfact": 10_000,
    **{f"knowedit-{part}": 300 for part in ("zsre", "recent", "counterfact", "wikibio")},
}


def dataset_of(name: str) -> tuple[str, int]:
    if name not in SIZES:
        raise unknown("dataset", name, SIZES)
    return f"{name}-revision", SIZES[name]


def planned(grid: Grid, **only: Sequence[str]) -> list[Cell]:
    return plan(
        grid,
        methods=METHODS,
        revision_of_model=lambda name: f"{name}-revision",
        dataset_of=dataset_of,
        only=only,
    )


def from_text(tmp_path: Path, text: str) -> dict[str, Grid]:
    path = tmp_path / "grids.toml"
    path.write_text(text)
    return grids(path)


SMALL = 'models = ["m"]\ndatasets = ["world"]\nmethods = ["lks"]\nn_edits = [1, 10]\n'


def test_every_shipped_grid_fits_the_methods_there_are() -> None:
    from baselines import methods

    shipped = grids(SHIPPED)
    assert {
        "micro",
        "ablation",
        "mini",
        "mini-counterfact",
        "ci",
        "paper",
        "baselines",
        "mini-baselines",
        "sweep",
        "sweep-mini",
    } <= set(shipped)
    assert {shipped[name].measure for name in ("scope", "scope-counterfact")} == {"scope"}
    assert next(iter(shipped)) == "first"
    assert shipped["first"].otherwise == "micro"
    for grid in shipped.values():
        assert grid.description
        cells = plan(
            grid, methods=methods(), revision_of_model=lambda name: "r", dataset_of=dataset_of, only={}
        )
        assert cells, grid.name
        if "*" in grid.methods:
            assert {cell.method for cell in cells} == set(methods()), grid.name


def test_every_method_is_every_method_with_a_preset_or_a_rule(tmp_path: Path) -> None:
    text = (
        SMALL.replace('["lks"]', '["*", {method = "lks", hypernetwork = "free"}]')
        .replace('["m"]', '["micro-a", "b"]')
        .replace("[1, 10]", "[1]")
    )
    grid = from_text(tmp_path, "[g]\n" + text)["g"]
    cells = planned(grid)
    assert [c.method for c in cells if c.model == "micro-a"] == ["none", "ft", "lks", "lks", "mend", "rome"]
    assert [(c.method, c.variant) for c in cells if c.model == "b"] == [
        *(
            ("none", ()),
            ("ft", ()),
            ("lks", ()),
            ("lks", (("hypernetwork", "free"),)),
        )  # rome and mend have nothing for it
    ]
    assert {c.method for c in planned(grid, method=["rome"])} == {"none", "rome"}
    with pytest.raises(
        UserError,
        match=r"no preset for model 'b', and no rule .* in a grid as \{ method = \"test_grid\", compat = ",
    ):
        planned(from_text(tmp_path, "[g]\n" + text.replace('"*"', '"*", "rome"'))["g"])
    with pytest.raises(UserError, match=r"Unknown method '\*'"):
        planned(from_text(tmp_path, "[g]\n" + text.replace('"*"', '{method = "*", lr = 1}'))["g"])


def test_development_cells_draw_from_the_last_third(tmp_path: Path) -> None:
    def asked(extra: str) -> Grid:
        return from_text(
            tmp_path, "[g]\n" + SMALL.replace("[1, 10]", "[1, 111]") + 'split = "development"\n' + extra
        )["g"]

    cells = planned(asked("draws = {111 = 3}"))
    assert {c.split for c in cells} == {"development"}
    assert cells[0].label == "none | m | world | T=1 | development"
    with pytest.raises(
        TooManyEdits,
        match=r"4 draws of T=111: 444 records .* which has 333 for development \(the last third\)\. Lower",
    ):
        planned(asked("draws = {111 = 4}"))
    with pytest.raises(TooManyEdits, match="which has 110 for development"):
        planned(asked("records = 330"))
    with pytest.raises(UserError, match=r"grid 'g', split.*'evaluation' or 'development'.*'devel'"):
        from_text(tmp_path, "[g]\n" + SMALL + 'split = "devel"')


def test_ids_of_evaluated_cells_are_what_they_were() -> None:
    """Results stored under this protocol must still count."""
    cell = Cell(
        "micro-llama",
        "world",
        "lks",
        10,
        0,
        20,
        parameters='{"a": 1}',
        model_revision="m",
        data_revision="d",
        records=5,
    )
    assert cell.id == "c209e700f41f3dc7"
    assert (
        len(
            {
                cell.id,
                *(
                    replace(cell, **change).id
                    for change in ({"split": "development"}, {"measure": "scope"}, {"split": "scope"})
                ),
            }
        )
        == 4
    )


def test_a_scope_grid_has_no_unedited_model_and_only_what_decides_in_its_parameters(tmp_path: Path) -> None:
    from baselines import methods

    shipped = grids(SHIPPED)["scope"]
    cells = plan(
        shipped, methods=methods(), revision_of_model=lambda name: "r", dataset_of=dataset_of, only={}
    )
    assert (
        len(cells) == 4 * 5
        and {c.measure for c in cells} == {"scope"}
        and {c.method for c in cells} == {"lks"}
    )
    assert {c.parameters for c in cells} == {
        *(
            f'{{"block": -1, "gate": "none", "probes": 500, "scope": "{kind}"}}'
            for kind in ("exact", "fuzzy", "official")
        ),
        '{"block": 2, "gate": "relation", "probes": 500, "scope": "exact"}',
    }
    assert cells[0].label.endswith("| mini-zsre-1000 | zsre | T=1 | scope")
    with pytest.raises(UserError, match="'ft' has no edit scope indicator"):
        planned(from_text(tmp_path, "[g]\n" + SMALL.replace('"lks"', '"ft"') + 'measure = "scope"')["g"])
    with pytest.raises(UserError, match="'none' has no edit scope indicator"):
        planned(from_text(tmp_path, "[g]\n" + SMALL.replace('"lks"', '"none"') + 'measure = "scope"')["g"])
    with pytest.raises(UserError, match=r"grid 'g', measure.*'answers', 'scope' or 'study'.*'scop'"):
        from_text(tmp_path, "[g]\n" + SMALL + 'measure = "scop"')


def test_the_micro_grid_is_the_issue_s() -> None:
    cells = planned(grids(SHIPPED)["micro"])
    assert len(cells) == 2 * 3 * 3
    assert {(c.n_edits, c.draws) for c in cells} == {(1, 20), (10, 20), (100, 3)}
    assert [c.model for c in cells] == ["micro-llama"] * 9 + ["micro-mistral"] * 9
    assert [c.n_edits for c in cells[:9]] == [1] * 3 + [10] * 3 + [100] * 3
    assert cells[0].model_revision == "micro-llama-revision" and cells[0].data_revision == "world-revision"


def test_parameters_are_those_of_the_preset_and_the_overrides() -> None:
    cells = planned(grids(SHIPPED)["mini"], method=["lks"])
    assert {c.records for c in cells} == {1000}
    free = [c for c in cells if ("hypernetwork", "free") in c.variant]
    assert [c.n_edits for c in free] == [1, 10, 100, 1000]
    assert '"epochs": 10' in free[0].parameters and '"hypernetwork": "free"' in free[0].parameters
    assert '"epochs": 20' in free[1].parameters


def test_an_ablation_that_is_the_preset_is_one_cell() -> None:
    cells = planned(grids(SHIPPED)["ablation"], model=["micro-llama"])
    # none, lks (linear = edit = last = joint = preset), mlp, free, entity, all, alternating
    assert len(cells) == 7
    assert next(c.variant for c in cells if c.method == "lks") == ()


def test_the_unedited_model_is_always_there(tmp_path: Path) -> None:
    grid = from_text(tmp_path, "[g]\n" + SMALL + "seeds = [0, 1]\ndraws = {1 = 5}\n")["g"]
    cells = planned(grid, method=["lks"])
    key = [(c.n_edits, c.draws, c.seed) for c in cells if c.method == "none"]
    assert key == [(1, 5, 0), (1, 5, 1), (10, 1, 0), (10, 1, 1)]
    assert key == [(c.n_edits, c.draws, c.seed) for c in cells if c.method == "lks"]


def test_every_field_that_decides_the_result_is_in_the_id() -> None:
    cell = Cell("m", "d", "lks", 10, 0, 1)
    changes = {
        "model": "x",
        "dataset": "x",
        "method": "x",
        "n_edits": 1,
        "seed": 1,
        "draws": 2,
        "parameters": "x",
    }
    changes |= {
        "model_revision": "x",
        "data_revision": "x",
        "records": 5,
        "split": "development",
        "measure": "scope",
    }
    ids = {replace(cell, **{name: value}).id for name, value in changes.items()}  # type: ignore[arg-type]
    assert len(ids | {cell.id}) == len(changes) + 1
    assert (
        replace(cell, variant=(("a", "b"),)).id == cell.id
    )  # the resolved parameters decide, not how they were asked for


def test_models_for_replaces_the_models_of_a_dataset(tmp_path: Path) -> None:
    text = '[g]\ndatasets = ["zsre", "world"]\nmodels = ["a"]\nmethods = ["none"]\nn_edits = [1]\nmodels_for = {zsre = ["b", "c"]}\n'
    assert from_text(tmp_path, text)["g"].pairs() == [("b", "zsre"), ("c", "zsre"), ("a", "world")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[g]\n" + SMALL + "draw = {1 = 2}", r"grid 'g'.*'draw'.*Did you mean 'draws'"),
        ("[g]\n" + SMALL + "draws = {100 = 2}", r"T=100 is not among n_edits \[1, 10\]"),
        ("[g]\n" + SMALL + "draws = {1 = 0}", r"grid 'g', draws.*greater than or equal to 1"),
        ("[g]\n" + SMALL.replace("[1, 10]", '["ten"]'), r"grid 'g', n_edits.0.*integer.*found 'ten'"),
        ("[g]\n" + SMALL.replace("[1, 10]", "[]"), r"n_edits"),
        ("[g]\n" + SMALL.replace('models = ["m"]', "models = []"), "no models for dataset 'world'"),
        ("[g]\n" + SMALL + 'models_for = {wrld = ["m"]}', "Did you mean 'world'"),
        ("[g]\n" + SMALL.replace('["lks"]', '[{hypernetwork = "free"}]'), "needs the method's name"),
        ("g = 1", "not a table"),
        ("[g", "not valid TOML"),
    ],
)
def test_a_wrong_grid_file_is_one_clear_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        from_text(tmp_path, text)
    assert "\n" not in str(caught.value) and "grids.toml" in str(caught.value)


def test_a_missing_grid_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.toml"):
        grids(tmp_path / "absent.toml")


def test_unknown_names_are_found_before_any_work(tmp_path: Path) -> None:
    for wrong, says in (
        (SMALL.replace('"lks"', '"lsk"'), "Unknown method 'lsk'. Did you mean 'lks'"),
        (SMALL.replace('"world"', '"wold"'), "Unknown dataset 'wold'. Did you mean 'world'"),
        (SMALL.replace('["lks"]', '[{method = "lks", hypernetwork = "fre"}]'), "'fre'.*'free'"),
        (SMALL.replace('["lks"]', '[{method = "lks", hypernetwrk = "free"}]'), "Did you mean 'hypernetwork'"),
        (SMALL.replace('["lks"]', '["none", {method = "none", lr = 1}]'), "Unknown parameter 'lr'"),
    ):
        with pytest.raises(UserError, match=says):
            planned(from_text(tmp_path, "[g]\n" + wrong)["g"])


def test_more_edits_than_records_is_refused_with_what_to_do(tmp_path: Path) -> None:
    def asked(extra: str) -> Grid:
        return from_text(tmp_path, "[g]\n" + SMALL.replace("[1, 10]", "[1, 100]") + extra)["g"]

    assert planned(asked("draws = {100 = 10}"))
    with pytest.raises(
        TooManyEdits, match=r"11 draws of T=100: 1100 records of dataset 'world', which has 1000\. Lower"
    ):
        planned(asked("draws = {100 = 11}"))
    with pytest.raises(TooManyEdits, match="T=100: 100 records of dataset 'world', which has 99"):
        planned(asked("records = 99"))
    with pytest.raises(TooManyEdits, match="first 1001 records of 'world', which holds 1000"):
        planned(asked("records = 1001"))


def test_only_filters_before_models_are_looked_up(tmp_path: Path) -> None:
    grid = from_text(tmp_path, "[g]\n" + SMALL.replace('["m"]', '["m", "absent"]'))["g"]

    def revision(name: str) -> str:
        if name == "absent":
            raise UserError("weights are missing")
        return name

    with pytest.raises(UserError, match="weights are missing"):
        plan(grid, methods=METHODS, revision_of_model=revision, dataset_of=dataset_of, only={})
    cells = plan(
        grid,
        methods=METHODS,
        revision_of_model=revision,
        dataset_of=dataset_of,
        only=parse_only("model=m, n_edits=10"),
    )
    assert {(c.model, c.n_edits) for c in cells} == {("m", 10)}


def test_only_is_parsed() -> None:
    assert parse_only("method=lks,model=micro-llama") == {"method": ("lks",), "model": ("micro-llama",)}
    assert parse_only("method=lks,method=ft") == {"method": ("lks", "ft")}
    assert parse_only("") == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lks", "key=value"),
        ("method=", "key=value"),
        ("metod=lks", "Did you mean 'method'"),
        ("method=lk", "Did you mean 'lks'"),
    ],
)
def test_a_wrong_filter_is_one_clear_line(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        planned(grids(SHIPPED)["micro"], **parse_only(text))
