"""Parameters: presets by model and dataset, overrides given as text."""

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from lks.editing.editor import ADDED, canonical, override
from lks.errors import UserError


@dataclass(frozen=True)
class Params:
    blocks: tuple[int, ...] = (1,)
    lr: float = 1.0
    form: Literal["a", "b"] = "a"
    on: bool = False


def test_overrides_are_parsed_by_the_field_s_type() -> None:
    assert override(Params(), {"blocks": "3, -4", "lr": "5e-4", "form": "b", "on": "true"}) == Params(
        (3, -4), 5e-4, "b", True
    )
    assert override(Params(), {"blocks": "7"}) == Params((7,))
    assert override(Params(), {}) == Params()


@pytest.mark.parametrize(
    ("name", "text"), [("blocks", "3,x"), ("blocks", ""), ("lr", "fast"), ("form", "c"), ("on", "maybe")]
)
def test_what_does_not_parse_is_named(name: str, text: str) -> None:
    with pytest.raises(UserError, match=f"Parameter {name}="):
        override(Params(), {name: text})


def test_an_unknown_parameter_is_named_with_what_was_meant() -> None:
    with pytest.raises(UserError, match=r"Unknown parameter 'blcks'.*blocks"):
        override(Params(), {"blcks": "1"})


def test_an_added_parameter_at_its_default_is_left_out_of_the_identity() -> None:
    """Results that were stored before it existed keep their ids."""

    @dataclass(frozen=True)
    class More(Params):
        end: bool = field(default=False, metadata=ADDED)

    assert canonical(More()) == canonical(Params())
    assert json.loads(canonical(More(end=True))) == {**json.loads(canonical(Params())), "end": True}
