"""Neighbours: each stratum on cases made by hand, and what holds of them in the made world."""

from collections.abc import Sequence
from functools import cache

import pytest

from lks.data.datasets import load
from lks.data.neighborhood import NEAR, PROBES, STRATA, relation, with_neighbours
from lks.edits import Case, Edit, Probe, make_case

BORN, WORKS = "The birthplace of {} is", "{} works for"


def case(number: int, subject: str, phrasing: str, target: str, old: str) -> Case:
    return make_case(
        Edit(str(number), subject, phrasing.format(subject), target, old),
        (f"Say: {phrasing.format(subject)}",),
        (),
    )


EDITED = case(0, "Mara Kel", BORN, "Lisbon", "Oslo")
SPARE = [
    case(1, "Ada Moss", BORN, "Quito", "Cairo"),  # the only other birthplace
    case(2, "Mara Kelorin", WORKS, "Bell", "Moto"),  # the only near name: 2 * 8 letters of 8 + 12
    case(3, "Tomas Verin", WORKS, "Bell", "Arco"),  # the only other question about somebody far
    case(4, "Mara Kel", WORKS, "Bell", "Moto"),  # the edited subject's own
]


def neighbours(made: Case) -> dict[str, Probe]:
    found = {probe.stratum: probe for probe in made.probes if probe.kind == "neighbour"}
    assert len(found) == sum(probe.kind == "neighbour" for probe in made.probes)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_strata_are_what_they_say(seed: int) -> None:
    (made,) = with_neighbours([EDITED], SPARE, seed)
    assert made.edit == EDITED.edit and made.probes[: len(EDITED.probes)] == EDITED.probes
    assert list(made.probes[len(EDITED.probes) :]) == [
        Probe(
            "neighbour", 0, "The birthplace of Ada Moss is", "Cairo", stratum="same_relation", rival="Lisbon"
        ),
        Probe("neighbour", 1, "Mara Kelorin works for", "Moto", stratum="near_name"),
        Probe("neighbour", 2, "Tomas Verin works for", "Arco", stratum="far"),
    ]
    assert STRATA == ("same_relation", "near_name", "far")


def test_a_neighbour_whose_answer_is_the_target_has_no_rival() -> None:
    (made,) = with_neighbours([EDITED], [case(1, "Ada Moss", BORN, "Quito", "Lisbon")], 0)
    assert neighbours(made)["same_relation"].rival == ""


def test_what_there_is_not_is_left_out() -> None:
    (made,) = with_neighbours([EDITED], SPARE[:1], 0)
    assert list(neighbours(made)) == ["same_relation"]  # nobody of a near name, no other question
    (made,) = with_neighbours([EDITED], SPARE[2:], 0)
    assert list(neighbours(made)) == ["far"]
    assert neighbours(made)["far"].index == 0
    assert with_neighbours([EDITED], SPARE[3:], 0) == [EDITED]
    assert with_neighbours([EDITED], [], 0) == [EDITED]


def test_the_subjects_of_one_draw_are_nobodys_neighbours() -> None:
    both = [EDITED, case(5, "Ada Moss", WORKS, "Bell", "Arco")]
    made = with_neighbours(both, SPARE, 3)
    assert not [
        probe
        for one in made
        for probe in neighbours(one).values()
        if "Ada Moss" in probe.prompt or "Mara Kel " in probe.prompt
    ]
    assert list(neighbours(made[0])) == ["near_name", "far"]


def test_a_relation_is_the_question_without_its_subject() -> None:
    assert relation(EDITED.edit) == relation(SPARE[0].edit) != relation(SPARE[1].edit)


@cache
def world() -> tuple[Sequence[Case], Sequence[Case]]:
    cases = load("world").cases
    return cases[:150], cases[150:]


def likeness(one: str, other: str) -> float:
    """Of two names: twice the length of their longest common subsequence by their letters, in percent."""
    row = [0] * (len(other) + 1)
    for a in one:
        last = row[:]
        for j, b in enumerate(other, 1):
            row[j] = last[j - 1] + 1 if a == b else max(last[j], row[j - 1])
    return 200 * row[-1] / (len(one) + len(other))


def test_neighbours_in_the_made_world() -> None:
    drawn, spare = world()
    made = with_neighbours(drawn, spare, 1, limit=100)
    assert made[100:] == list(drawn[100:]) and [one.edit for one in made] == [one.edit for one in drawn]
    by_prompt = {one.edit.prompt: one.edit for one in spare}
    edited = {one.edit.subject for one in drawn}
    counts = dict.fromkeys(STRATA, 0)
    for one in made[:100]:
        for stratum, probe in neighbours(one).items():
            asked = by_prompt[probe.prompt]
            assert asked.subject not in edited and probe.answer == asked.ground_truth
            assert (relation(asked) == relation(one.edit)) == (
                stratum == "same_relation"
            ) or stratum == "near_name"
            counts[stratum] += 1
    assert counts["same_relation"] == counts["far"] == 100 and 5 <= counts["near_name"] <= 95
    for one in made[:5]:
        scores = {other.edit.subject: likeness(one.edit.subject, other.edit.subject) for other in spare}
        near = neighbours(one).get("near_name")
        assert (near is not None) == (max(scores.values()) >= NEAR)
        if near is not None:
            assert scores[by_prompt[near.prompt].subject] == max(scores.values())
            assert neighbours(one)["far"].prompt != near.prompt


def test_pairs_of_near_names_find_each_other() -> None:
    cases = {one.edit.subject: one for one in load("world").cases}
    pairs = [
        ("Mara Kel", "Mara Kelorin"),
        ("Tomas Verin", "Thomas Verin"),
        ("Emil Sander", "Emil Sanders"),
        ("Ivan Petrak", "Iwan Petrak"),
    ]
    for name, near in pairs:
        (made,) = with_neighbours(
            [cases[name]], [one for subject, one in cases.items() if subject != name], 0
        )
        assert neighbours(made)["near_name"].prompt == cases[near].edit.prompt


def test_the_seed_alone_decides() -> None:
    drawn, spare = world()
    assert (
        with_neighbours(drawn, spare, 1)
        == with_neighbours(drawn, spare, 1)
        != with_neighbours(drawn, spare, 2)
    )
    assert PROBES == 200
