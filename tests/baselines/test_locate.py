"""Locate-then-edit: texts, keys, moments, value optimisation, and each update against its closed form."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baselines import methods
from baselines._locate_then_edit import corpus, covariances
from baselines._locate_then_edit.contexts import behind, end_of_subject, prefixes
from baselines._locate_then_edit.covariances import Moment, projected, ridge, second_moments
from baselines._locate_then_edit.keys import Subjects
from baselines._locate_then_edit.values import ValueParams, needed_bytes, optimise, pieces, value_rows
from baselines._locate_then_edit.weight_updates import Updates
from baselines.memit import MEMIT, MEMITParams
from baselines.r_rome import RROME
from baselines.rome import ROME, ROMEParams
from benchmarks.value_optimisation import plain
from lks.edits import Dataset, Edit, make_case
from lks.errors import UserError
from lks.models.frozen_prefix import UpperBlocks
from lks.models.lm import LM
from tests.helpers import real, tiny


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moment(dim: int, samples: int = 200, seed: int = 0) -> tuple[Moment, torch.Tensor]:
    keys = torch.randn(dim, samples, generator=generator(seed), dtype=torch.float64)
    c = keys @ keys.T / samples
    values, vectors = torch.linalg.eigh(c)
    return Moment(vectors, values), c


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    return float((one - other).norm() / other.norm()) < tolerance


# texts


def test_texts_are_sampled_from_the_model_and_leave_the_generator_alone() -> None:
    lm = tiny.lm("llama")
    before = torch.random.get_rng_state()
    found = prefixes(lm, [5, 10, 5, 5, 5, 10])
    assert found == prefixes(lm, [5, 10, 5, 5, 5, 10]) != prefixes(lm, [5, 10, 5, 5, 5, 10], seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert found[0].startswith("The") and found[1].startswith("Therefore") and found[5].startswith("The")


def test_rows_are_the_prompt_bare_and_behind_each_text_and_end_where_the_subject_ends() -> None:
    lm = tiny.lm("llama")
    rows = behind(lm, tiny.edits(2), ["Oslo", "Mara Kelorin works for Cairo"], answered=True)
    assert [len(own) for own in rows] == [3, 3]
    for own, edit in zip(rows, tiny.edits(2), strict=True):
        for row in own:
            text = lm.pieces.decode(row.ids[: end_of_subject(row) + 1]).text
            assert text.endswith(edit.subject) and lm.pieces.decode(row.answer).text.strip() == edit.target


def test_a_prompt_without_its_subject_is_refused() -> None:
    lm = tiny.lm("llama")
    with pytest.raises(UserError, match="Edit 7: subject 'Ada' does not occur"):
        behind(lm, [Edit("7", "Ada", "Nobody lives in", "Oslo", "Cairo")], [], answered=False)


# keys


@pytest.mark.parametrize("family", tiny.MODELS)
def test_keys_and_states_are_those_of_the_whole_model(family: str) -> None:
    lm = tiny.lm(family)
    rows = behind(lm, tiny.edits(3), ["Oslo", "Mara Kelorin works for Cairo"], answered=False)
    subjects = Subjects.before(lm, rows, 1).move(lm, 2)
    keys, state = subjects.keys(lm), subjects.bare(lm, 3)
    seen: list[torch.Tensor] = []
    for edit, own in enumerate(rows):
        for context, row in enumerate(own):
            hooks = [
                lm.mlp_output(2).register_forward_pre_hook(lambda _m, args: seen.append(args[0])),
                lm.block(3).register_forward_hook(
                    lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out)
                ),
            ]
            lm.model(torch.tensor([row.ids]))
            for hook in hooks:
                hook.remove()
            end = end_of_subject(row)
            torch.testing.assert_close(keys[edit, context], seen[0][0, end], rtol=1e-4, atol=1e-4)
            if context == 0:
                torch.testing.assert_close(state[edit], seen[1][0, end], rtol=1e-4, atol=1e-4)
            seen.clear()


# moments


def test_second_moments_are_the_mean_outer_product_of_all_keys_but_the_first(tmp_path: Path) -> None:
    lm = tiny.lm("llama")
    text = tmp_path / "text.txt"
    lines = ["Mara Kelorin works for Oslo.", "Ada Moss was born in Quito and in Cairo."]
    text.write_text("\n\n".join(lines))
    found = second_moments(lm, [0, 2], str(text), 1000)
    for block in (0, 2):
        keys: list[torch.Tensor] = []
        hook = lm.mlp_output(block).register_forward_pre_hook(
            lambda _m, args, keys=keys: keys.append(args[0][0, 1:].double())
        )
        for line in lines:
            lm.model(torch.tensor([lm.tokenizer(line)["input_ids"]]))
        hook.remove()
        k = torch.cat(keys).T
        got = found.blocks[block]
        assert close(got.vectors @ got.values.diag() @ got.vectors.T, k @ k.T / k.shape[1], 1e-5)


def test_second_moments_come_from_disk_and_all_blocks_from_one_pass(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LKS_CACHE", str(tmp_path))
    passes: list[list[int]] = []
    original = covariances._sums

    def counted(lm: LM, blocks: list[int], *args: object) -> object:
        passes.append(list(blocks))
        return original(lm, blocks, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(covariances, "_sums", counted)
    lm = tiny.lm("llama")
    first = second_moments(lm, [0, 1, 2], "world", 2000)
    again = second_moments(lm, [0, 1, 2], "world", 2000)
    assert passes == [[0, 1, 2]] and again.seconds == pytest.approx(first.seconds) and first.seconds > 0
    assert torch.equal(first.blocks[1].vectors, again.blocks[1].vectors)
    second_moments(tiny.lm("llama", seed=1), [0], "world", 2000)
    second_moments(lm, [0], "world", 3000)
    assert len(passes) == 3  # another model, another text


def test_facts_that_are_not_known_are_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    known, unknown = tiny.edits(2)[0], replace(tiny.edits(2)[1], ground_truth="")
    monkeypatch.setattr(
        corpus,
        "load",
        lambda name: Dataset(name, tuple(make_case(edit, (), ()) for edit in (unknown, known)), ""),
    )
    first, *rest = [
        text
        for text in corpus.texts("zsre")
        if text.startswith(("The birthplace", "Surely", known.subject, unknown.subject))
    ]
    assert first == f"{known.prompt} {known.ground_truth}."
    assert len(rest) == len(known.training_paraphrases)
    monkeypatch.setattr(corpus, "load", lambda name: Dataset(name, (make_case(unknown, (), ()),), ""))
    with pytest.raises(UserError, match="'zsre' holds no text"):
        second_moments(tiny.lm("llama"), [1], "zsre", 100)


def test_an_unknown_corpus_is_named() -> None:
    with pytest.raises(UserError, match="wrld"):
        second_moments(tiny.lm("llama"), [0], "wrld", 100)


@pytest.mark.parametrize("n", [1, 5, 30, 70])
def test_least_squares_in_n_by_n_is_the_direct_solve(n: int) -> None:
    factor, c = moment(40)
    keys = torch.randn(40, n, generator=generator(1), dtype=torch.float64)
    direct = torch.linalg.solve(15.0 * c + keys @ keys.T, keys)
    assert close(ridge(factor, keys, 15.0), direct, 1e-8)


def test_least_squares_without_weight_is_the_equality_constraint() -> None:
    factor, _ = moment(40)
    keys = torch.randn(40, 6, generator=generator(1), dtype=torch.float64)
    residual = torch.randn(8, 6, generator=generator(2), dtype=torch.float64)
    torch.testing.assert_close(residual @ ridge(factor, keys, 0.0).T @ keys, residual)


@pytest.mark.parametrize(("n", "m"), [(4, 0), (4, 7), (30, 20)])
def test_the_projected_solve_is_alphaedits_and_leaves_old_keys_alone(n: int, m: int) -> None:
    factor, _ = moment(40, samples=15)  # 25 free directions
    basis = factor.null_space(1e-6)
    assert basis.shape == (40, 25)
    keys = torch.randn(40, n, generator=generator(1), dtype=torch.float64)
    earlier = torch.randn(40, m, generator=generator(2), dtype=torch.float64)
    residual = torch.randn(8, n, generator=generator(3), dtype=torch.float64)
    p = basis @ basis.T
    direct = torch.linalg.solve(
        p @ (keys @ keys.T + earlier @ earlier.T) + 2.0 * torch.eye(40), p @ keys @ residual.T
    ).T
    update = residual @ projected(basis, keys, earlier, 2.0).T
    assert close(update, direct, 1e-8)
    old = torch.randn(40, 15, generator=generator(0), dtype=torch.float64)  # the very samples of C
    assert float((update @ old).norm() / (update.norm() * old.norm())) < 1e-6


# value optimisation

PARAMS = ValueParams(steps=8, lr=0.3, clamp=0.8)
NORMS = torch.tensor([6.0, 9.0, 5.0, 7.0])


@pytest.mark.parametrize("family", tiny.MODELS)
def test_values_of_many_edits_are_those_of_one_by_one_and_of_the_plain_path(family: str) -> None:
    lm = tiny.lm(family)
    edits, texts = tiny.edits(4), ["Oslo", "Mara Kelorin works for Cairo"]
    together = optimise(lm, edits, 1, NORMS, texts, PARAMS).change
    upper, rows = UpperBlocks(lm, 1), value_rows(lm, edits, texts, end=False)
    assert [len(piece) for piece in pieces(upper, rows, 1)] == [1] * 4
    room = max(needed_bytes(upper, [rows[i] for i in pair]) for pair in itertools.combinations(range(4), 2))
    assert sorted(itertools.chain(*pieces(upper, rows, room))) == [0, 1, 2, 3]
    assert all(needed_bytes(upper, [rows[i] for i in piece]) <= room for piece in pieces(upper, rows, room))
    in_pairs = optimise(lm, edits, 1, NORMS, texts, PARAMS, memory=room).change
    one_by_one = optimise(lm, edits, 1, NORMS, texts, PARAMS, memory=1).change
    assert close(one_by_one, together, 1e-3)
    for number, edit in enumerate(edits):
        alone = optimise(lm, [edit], 1, NORMS[number : number + 1], texts, PARAMS).change[0]
        assert close(together[number], alone, 1e-3) and close(in_pairs[number], alone, 1e-3)
        assert close(together[number], plain(lm, edit, 1, float(NORMS[number]), texts, PARAMS), 1e-3)


def test_values_optimised_in_bfloat16_are_near_those_in_float32() -> None:
    lm = real.model()
    edits, texts = (
        [
            Edit("0", "Paris", "The city of Paris lies in", "Norway", "France"),
            Edit("1", "Mozart", "The music of Mozart is", "jazz", "classical"),
        ],
        [],
    )
    made = {
        p: optimise(lm, edits, 9, NORMS[:2], texts, ValueParams(steps=6, precision=p))
        for p in ("model", "bfloat16")
    }
    assert made["bfloat16"].change.dtype == torch.float32
    likeness = torch.nn.functional.cosine_similarity(made["model"].change, made["bfloat16"].change)
    assert (likeness > 0.98).all() and (likeness < 1).all()  # another path, the same place
    assert torch.allclose(made["model"].loss, made["bfloat16"].loss, rtol=0.1)


def test_each_edit_stops_by_itself_and_stays_within_its_clamp() -> None:
    lm = tiny.lm("llama")
    edits = tiny.edits(4)
    loose = optimise(lm, edits, 1, NORMS, [], replace(PARAMS, clamp=100.0, steps=20))
    stop = float(loose.loss.sort().values[1]) + 1e-4  # two of the four get there
    some = optimise(lm, edits, 1, NORMS, [], replace(PARAMS, clamp=100.0, steps=20, stop_loss=stop))
    assert sorted((some.loss < stop).tolist()) == [False, False, True, True]
    assert int(some.updates.max()) == 19 > int(some.updates.min())
    for number in range(4):
        alone = optimise(
            lm,
            [edits[number]],
            1,
            NORMS[number : number + 1],
            [],
            replace(PARAMS, clamp=100.0, steps=20, stop_loss=stop),
        )
        assert int(alone.updates[0]) == int(some.updates[number])
        assert close(some.change[number], alone.change[0], 1e-3)
    tight = optimise(lm, edits, 1, NORMS, [], replace(PARAMS, clamp=0.05))
    assert (tight.change.norm(dim=-1) <= 0.05 * NORMS * (1 + 1e-5)).all()


def test_an_edit_that_is_known_already_changes_nothing() -> None:
    lm = tiny.lm("llama")
    found = optimise(lm, tiny.edits(2), 1, NORMS[:2], [], replace(PARAMS, stop_loss=1e9))
    assert not found.change.any() and not found.updates.any()


# updates


def direct_rome(
    weight: torch.Tensor, c: torch.Tensor, u_key: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """Eq. 2 of the paper with an explicit inverse."""
    direction = torch.linalg.inv(c) @ u_key
    return torch.outer(value - weight @ key, direction) / (direction @ key)


@pytest.mark.parametrize("method", [ROME, RROME])
def test_romes_update_is_its_closed_form(method: type[ROME]) -> None:
    lm = tiny.lm("llama")
    made = method(ROMEParams(block=1))
    made._moment, c = moment(96)
    keys = torch.rand(3, 96, generator=generator(1))
    change = torch.randn(48, generator=generator(2))
    left, right = (f.double() for f in made._factors(lm, keys, change))
    weight = lm.mlp_output(1).weight.double()
    key = (keys.mean(0) if method is RROME else keys[0]).double()
    value = weight @ keys[0].double() + change
    expected = direct_rome(weight, c, keys.mean(0).double(), key, value)
    assert close(left @ right, expected, 1e-5)
    assert close((weight + left @ right) @ key, value, 1e-5)


def test_easyedits_rome_takes_the_mean_key_for_a_direction() -> None:
    lm = tiny.lm("llama")
    made = ROME.for_model("micro-tiny", "world", 1, {"compat": "easyedit"})
    made.prepare(lm)
    keys = torch.rand(3, 96, generator=generator(1))
    _, right = made._factors(lm, keys, torch.ones(48))
    mean = keys.mean(0)
    assert close(right[0].float(), mean / mean.norm(), 1e-6)


@pytest.mark.parametrize("family", tiny.MODELS)
def test_memit_of_one_edit_and_one_block_without_old_keys_is_rome(family: str) -> None:
    lm = tiny.lm(family)
    shared = {"corpus": "world", "corpus_tokens": 4000, "steps": 6, "clamp": 1e6, "weight_decay": 0.0}
    memit = MEMIT(MEMITParams(first_block=1, last_block=1, contexts=0, old_keys_weight=0.0, **shared))
    rome = RROME(ROMEParams(block=1, short_contexts=0, long_contexts=0, **shared))
    patches = []
    for made in (memit, rome):
        made.prepare(lm)
        patches.append(made.edit(lm, tiny.edits(1)))
    (name,) = patches[0].names
    assert close(patches[0].difference(name), patches[1].difference(name), 1e-4)


def test_memit_reaches_its_values_where_nothing_counts_against_them() -> None:
    lm = tiny.lm("llama")
    shared = {"corpus": "world", "corpus_tokens": 4000, "steps": 4, "contexts": 0}
    made = MEMIT(MEMITParams(first_block=0, last_block=2, old_keys_weight=1e-6, **shared))
    made.prepare(lm)
    edits = tiny.edits(3)
    rows = behind(lm, edits, [], answered=False)
    before = Subjects.before(lm, rows, 0).bare(lm, 2)
    wanted = before + optimise(lm, edits, 2, before.norm(dim=-1), [], made.params).change
    with made.edit(lm, edits).applied(lm):
        reached = Subjects.before(lm, rows, 0).bare(lm, 2)
    assert close(reached, wanted, 0.05) and not close(before, wanted, 0.05)


def test_alphaedits_later_batches_keep_clear_of_earlier_ones() -> None:
    lm = tiny.lm("llama")
    made = methods()["alphaedit"].for_model(
        "micro-tiny", "world", 4, {"batch_size": "2", "threshold": "1e9", "penalty": "1e-6"}
    )
    made.prepare(lm)
    seen: list[int] = []
    original = made.solve

    def solve(moments, block, keys, earlier):
        factor = original(moments, block, keys, earlier)
        if earlier.shape[1]:
            assert (
                float((factor.T @ earlier.double()).abs().max()) < 1e-3
            )  # old keys get no part of the update
        seen.append(earlier.shape[1])
        return factor

    made.solve = solve
    one = made.edit(lm, tiny.edits(4))
    assert seen == [0, 0, 0, 2, 2, 2]
    other = made.edit(lm, tiny.edits(4))  # nothing is left over from the call before
    assert all(torch.equal(one.tensors()[k], other.tensors()[k]) for k in one.tensors())


def test_updates_are_there_inside_and_gone_when_suspended_or_left() -> None:
    lm = tiny.lm("gpt2")
    module = lm.mlp_output(1)
    before = module.weight.clone()
    left, right = torch.randn(48, 2, generator=generator(1)), torch.randn(2, 192, generator=generator(2))
    with pytest.raises(KeyboardInterrupt), Updates(lm, [1]) as updates:
        updates.add(1, left[:, :1], right[:1])
        updates.add(1, left[:, 1:], right[1:])
        torch.testing.assert_close(module.weight, before + (left @ right).T)
        with updates.suspended():
            assert torch.equal(module.weight, before)
        patch = updates.patch()
        inside = module.weight.clone()
        raise KeyboardInterrupt
    assert torch.equal(module.weight, before)
    with patch.applied(lm):
        torch.testing.assert_close(module.weight, inside)


@pytest.mark.parametrize("name", ["rome", "r_rome", "memit", "emmet", "alphaedit"])
@pytest.mark.parametrize(("dim", "tokens"), [(576, 115_200), (4096, 819_200), (65_536, 5_000_000)])
def test_the_rule_for_untuned_models_reads_text_in_proportion_to_the_width(
    name: str, dim: int, tokens: int
) -> None:
    rule = methods()[name].untuned(30, dim)
    assert rule is not None
    params = rule(10, "zsre")
    assert params.corpus_tokens == tokens and params.precision == "fast"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("dim", "weight"), [(576, 2109.375), (4096, 15_000.0)])
def test_memits_weight_of_old_keys_grows_with_the_width(dim: int, weight: float) -> None:
    rule = MEMIT.untuned(30, dim)
    assert rule(10, "zsre").old_keys_weight == weight
    assert rule(10, "zsre").first_block == 3 and MEMIT.for_model("llama-2-7b-chat", "zsre", 10).params == (
        MEMITParams(first_block=4, last_block=8)
    )


def test_the_mean_of_what_the_weight_is_compared_with_is_the_number_of_inputs() -> None:
    """k^T C^-1 k over the keys of C itself, whatever their scale."""
    keys = torch.randn(40, 500, generator=generator(), dtype=torch.float64) * 7
    values, vectors = torch.linalg.eigh(keys @ keys.T / 500)
    found = (keys * Moment(vectors, values).inverse(keys)).sum(0).mean()
    torch.testing.assert_close(float(found), 40.0)
