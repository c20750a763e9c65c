"""Search spaces: what points give, and that the space of every method fits its parameters."""

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import pytest

from baselines import methods
from lks.editing.editor import NoParams, override
from lks.editing.search_space import (
    Choices,
    DepthRange,
    DepthSpan,
    JointChoices,
    LogRange,
    Range,
    SearchSpace,
    configurations,
    space_of,
    value_text,
)
from lks.errors import UserError

ENDS = (0.0, 0.5, 1 - 1e-9)
TUNED = sorted(name for name, method in methods().items() if method.params_type is not NoParams)


def test_ranges_reach_both_ends() -> None:
    assert [Range("n", 2, 6).at(p, 4)["n"] for p in ENDS] == [2, 4, 6]
    assert [Range("x", 0.1, 0.5).at(p, 4)["x"] for p in ENDS] == [0.1, 0.3, 0.5]
    assert [LogRange("lr", 1e-4, 1e-2).at(p, 4)["lr"] for p in ENDS] == [1e-4, 1e-3, 1e-2]
    assert [LogRange("n", 10, 1000).at(p, 4)["n"] for p in ENDS] == [10, 100, 1000]
    assert [Choices("c", ("a", "b")).at(p, 4)["c"] for p in ENDS] == ["a", "b", "b"]
    assert JointChoices(("a", "b"), ((1, 2), (3, 4))).at(0.7, 4) == {"a": 3, "b": 4}
    assert LogRange("lr", 1e-4, 1e-2).log and not Range("x", 0.1, 0.5).log


@pytest.mark.parametrize("blocks", [1, 2, 5, 30, 32])
def test_blocks_depend_on_the_depth(blocks: int) -> None:
    every = {DepthRange("b").at(k / 1000, blocks)["b"] for k in range(1000)}
    assert every == set(range(blocks))
    upper = {DepthRange("b", 0.5, 1.0).at(k / 1000, blocks)["b"] for k in range(1000)}
    assert max(upper) == blocks - 1 and min(upper) == round(0.5 * (blocks - 1))
    for k in range(1000):
        span = DepthSpan("first", "last", (1, 3, 5), 0.0, 0.7).at(k / 1000, blocks)
        assert 0 <= span["first"] <= span["last"] < blocks  # type: ignore[operator]


@dataclass(frozen=True, slots=True)
class PointParams:
    search_space: ClassVar[SearchSpace] = (
        DepthRange("block"),
        LogRange("lr", 1e-4, 1e-2),
        Choices("kind", ("x",)),
    )

    block: int = 0
    lr: float = 1e-3
    kind: str = "y"


def test_points_are_even_seeded_and_partly_the_default() -> None:
    points = [dict(point) for point in islice(configurations(PointParams.search_space, 10, 3), 200)]
    again = [dict(point) for point in islice(configurations(PointParams.search_space, 10, 3), 200)]
    other = [dict(point) for point in islice(configurations(PointParams.search_space, 10, 4), 200)]
    assert points == again != other
    assert all(point["kind"] == "x" for point in points), "a single choice is always set"
    whole = points[1::2]
    assert all(set(point) == {"block", "lr", "kind"} for point in whole)
    counts = Counter(point["block"] for point in whole)
    assert set(counts) == {str(k) for k in range(10)} and max(counts.values()) - min(counts.values()) <= 4
    assert {len(point) for point in points[::2]} == {2, 3}


@dataclass(frozen=True, slots=True)
class MisspelledParams:
    search_space: ClassVar[SearchSpace] = (LogRange("lrr", 0.1, 1.0),)

    lr: float = 0.1


def test_a_wrong_space_is_refused() -> None:
    with pytest.raises(UserError, match=r"search_space of MisspelledParams.*'lrr'.*Did you mean 'lr'"):
        space_of("Mine", MisspelledParams)
    with pytest.raises(UserError, match=r"None declares nothing to tune.*NoParams.*search_space"):
        space_of("None", NoParams)


def test_a_space_is_no_parameter() -> None:
    with pytest.raises(UserError, match=r"Unknown parameter 'search_space'.*Known: block, kind, lr\."):
        override(PointParams(), {"search_space": "1"})


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize("model", ["micro-llama", "llama-2-7b-chat"])
def test_every_point_gives_parameters(name: str, model: str) -> None:
    method = methods()[name]
    space = space_of(method.title, method.params_type)
    blocks = 32 if model.startswith("llama") else 6
    default = method.for_model(model, "world", 10).params
    made = [override(default, dict(point)) for point in islice(configurations(space, blocks, 0), 30)]
    assert all(type(params) is method.params_type for params in made)
    assert sum(params != default for params in made) > 20
    assert len({name for dimension in space for name in dimension.names}) == sum(len(d.names) for d in space)


def test_texts_are_read_back() -> None:
    assert value_text((-2, -1)) == "-2, -1" and value_text(True) == "true" and value_text(1e-5) == "1e-05"
