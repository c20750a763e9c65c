"""Algorithm 1: the loss against the full model, Eqs. 2 to 5 by hand, and that training works."""

import math
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks.naive_lks import NaiveTrainer
from lks.editing.patch import NoPatch
from lks.errors import UserError
from lks.io.checkpoint import Checkpoint
from lks.method.lks import LKS
from lks.method.params import GateKind, LKSParams, LocalityFor
from lks.method.trainer import UNSEEN, LatestLosses, LKSTrainer, place
from lks.method.training_data import losses_at, prepare, subjects_of
from lks.models.losses import FrozenCrossEntropy, References, kl_divergence, negative_log_likelihood
from tests.helpers import tiny

PARAMS = LKSParams(block=1, lr=3e-2, max_epochs=20, batch_size=4, patience=20)


@pytest.mark.parametrize("cap", [None, 2.0])
def test_cross_entropy_through_a_frozen_projection_has_the_usual_loss_and_gradient(
    cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FrozenCrossEntropy, "PIECE", 4)
    generator = torch.Generator().manual_seed(0)
    weight, labels = torch.randn(9, 5, generator=generator), torch.tensor([0, 8, 3, 3, 1, 2, 7])
    final = torch.randn(7, 5, generator=generator, requires_grad=True)
    upstream = torch.randn(7, generator=generator)
    logits = final @ weight.T
    usual = F.cross_entropy(
        logits if cap is None else cap * torch.tanh(logits / cap), labels, reduction="none"
    )
    found = FrozenCrossEntropy.apply(final, weight, labels, cap)
    torch.testing.assert_close(found, usual)
    gradients = [torch.autograd.grad((losses * upstream).sum(), final)[0] for losses in (found, usual)]
    torch.testing.assert_close(*gradients)


def test_negative_log_likelihood_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]))
    loss = negative_log_likelihood(logits, torch.tensor([0, 1, 0]), torch.tensor([0, 0, 1]), 2)
    row_0, row_1 = -(math.log(0.5) + math.log(0.75)) / 2, -math.log(0.9)
    assert float(loss) == pytest.approx((row_0 + row_1) / 2)


def test_kl_divergence_by_hand() -> None:
    unedited, edited = torch.tensor([[0.5, 0.5], [0.2, 0.8]]), torch.tensor([[0.25, 0.75], [0.2, 0.8]])
    kl = kl_divergence(edited.log(), unedited.log(), torch.tensor([0, 1]), 2)
    assert float(kl) == pytest.approx(0.5 * (0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)))


def test_place_fills_the_span_and_nothing_else() -> None:
    hidden = torch.zeros(2, 4, 3)
    made = place(hidden, torch.tensor([[1, 2], [3, 3]]), torch.ones(2, 3))
    assert made.sum(-1).tolist() == [[0, 3, 3, 0], [0, 0, 0, 3]]


@pytest.mark.parametrize("family", tiny.MODELS)
@pytest.mark.parametrize("positions", ["last", "all"])
def test_loss_equals_the_plain_full_model_path(family: str, positions: str) -> None:
    """Every part of Eq. 2, computed by running the whole model with a hook on each prompt alone."""
    lm = tiny.lm(family)
    params = replace(PARAMS, positions=positions, lambda_edit=2.5, locality_tokens=2)
    edits = tiny.edits(3)
    trainer = LKSTrainer(lm, prepare(lm, edits, params), params, seed=0)
    with torch.no_grad():
        for p in trainer.networks.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    owned = trainer.material.owned
    chosen = {part: [r for rows in owned[part] for r in rows] for part in owned}
    table = trainer.networks.table()[0]
    parts = {"edit": [], "paraphrase": [], "locality": []}
    for i, edit in enumerate(edits):
        parts["edit"].append(_nll(lm, edit.prompt, edit.target, edit.subject, table[i], params))
        parts["paraphrase"] += [
            _nll(lm, p, edit.target, edit.subject, table[i], params) for p in edit.training_paraphrases
        ]
        parts["locality"] += [_kl(lm, p, edit.subject, table[i], params) for p in edit.training_locality]
    mean = {k: sum(v) / len(v) for k, v in parts.items()}
    expected = 2.5 * (mean["edit"] + mean["paraphrase"]) + mean["locality"]
    with torch.no_grad():
        assert float(trainer.loss(chosen)) == pytest.approx(expected, rel=1e-4)


def test_edits_weigh_alike_whatever_the_length_of_their_targets() -> None:
    lm = tiny.lm("llama")
    short, long = tiny.edits(2)
    edits = [short, replace(long, target=" ".join([long.target] * 12))]
    trainer = LKSTrainer(lm, prepare(lm, edits, PARAMS), PARAMS, seed=0)
    rows = [own[0] for own in trainer.material.owned["edit"]]
    counts = (trainer.material.offsets[1:] - trainer.material.offsets[:-1])[rows]
    with torch.no_grad():
        both, *each = (float(trainer.loss({"edit": chosen})) for chosen in (rows, rows[:1], rows[1:]))
    assert (
        counts[1] >= 10 * counts[0]
        and both == pytest.approx(sum(each) / 2, rel=1e-5)
        and both != pytest.approx(each[1], rel=1e-3)
    )


@pytest.mark.parametrize("family", tiny.MODELS)
@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"positions": "all"}, {"more_blocks": (2,), "form": "residual"}],
    ids=["last", "all", "two_blocks"],
)
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "anew"])
def test_loss_and_gradients_equal_those_of_whole_forward_passes(
    family, kind, changes, keep, monkeypatch
) -> None:
    """To 1e-5 in float32, with keys and values of the rows' beginnings kept or computed anew."""
    monkeypatch.setattr("lks.method.training_data.fits", lambda upper, starts: keep)
    lm = tiny.lm(family)
    params = replace(PARAMS, hypernetwork=kind, lambda_edit=2.5, **changes)
    ours, plain = (
        LKSTrainer(lm, prepare(lm, tiny.edits(3), params), params, 0),
        NaiveTrainer(lm, tiny.edits(3), params, 0),
    )
    assert (ours.material.beginnings is not None) == keep
    found = []
    for trainer in (ours, plain):
        with torch.no_grad():
            for p in trainer.networks.parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        loss = trainer.loss(
            {part: [r for rows in own for r in rows] for part, own in trainer.material.owned.items()}
        )
        found.append((loss, torch.autograd.grad(loss, list(trainer.networks.parameters()))))
    (loss, gradients), (plain_loss, plain_gradients) = found
    assert loss.item() == pytest.approx(plain_loss.item(), rel=1e-5)
    for mine, theirs in zip(gradients, plain_gradients, strict=True):
        assert (mine - theirs).norm() <= 1e-5 * theirs.norm()
        assert theirs.norm() > 0


def test_bfloat16_is_near_and_zero_change_has_zero_divergence() -> None:
    lm = tiny.lm("llama")
    losses = []
    for precision in ("model", "bfloat16"):
        params = replace(PARAMS, precision=precision)
        trainer = LKSTrainer(lm, prepare(lm, tiny.edits(3), params), params, 0)
        losses.append(float(trainer.loss({"edit": trainer.material.owned["edit"][0]}).detach()))
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.05)
    m = trainer.material  # the references are made in the same precision: an untouched row has no divergence
    index = torch.tensor([r for own in m.owned["locality"] for r in own])
    ends, (rows, where) = m.ends(index), losses_at(m, index)
    logits = m.upper.logits(ends(ends.hidden)[rows, m.positions[where] - m.spans[index, 0][rows]])
    assert (
        m.references.kl(logits, m.reference_offsets[index][rows] + where - m.offsets[index][rows]).abs().max()
        < 1e-5
    )


def test_most_likely_tokens_and_the_rest_bound_the_divergence_from_below() -> None:
    noise = torch.Generator().manual_seed(0)
    unedited, edited = (4 * torch.randn(20, 300, generator=noise) for _ in range(2))
    where = torch.arange(20)
    values = {}
    for top in (0, 1, 50, 299, 300):
        kept = References.room(20, 300, top, unedited.device)
        kept.put(where, unedited)
        assert torch.allclose(kept.kl(unedited, where), torch.zeros(20), atol=1e-5)
        values[top] = kept.kl(edited, where)
    whole = (unedited.softmax(-1) * (unedited.log_softmax(-1) - edited.log_softmax(-1))).sum(-1)
    torch.testing.assert_close(values[0], whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(values[300], whole, rtol=1e-5, atol=1e-5)
    assert (
        (values[1] <= values[50] + 1e-5).all()
        and (values[50] <= values[299] + 1e-5).all()
        and (values[299] <= whole + 1e-5).all()
    )
    assert ((whole - values[50]) / whole).mean() < 0.15


def test_training_with_the_most_likely_tokens_goes_the_same_way() -> None:
    lm = tiny.lm("llama")
    losses = []
    for top in (0, 64):
        params = replace(PARAMS, reference_top=top, max_epochs=3)
        losses.append(LKSTrainer(lm, prepare(lm, tiny.edits(4), params), params, 0).train())
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def _edited_logits(lm, ids, span, new, params):
    def put(module, args, output):
        changed = (output[0] if isinstance(output, tuple) else output).clone()
        first, last = span
        changed[0, (first if params.positions == "all" else last) : last + 1] = new
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = lm.block(params.block).register_forward_hook(put)
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    handle.remove()
    return logits


def _nll(lm, prompt, target, subject, new, params):
    row = lm.encode([prompt], [target], [subject])[0]
    logits = _edited_logits(lm, row.ids, row.subject, new, params)
    return -sum(float(logits[t - 1, row.ids[t]]) for t in range(row.n_prompt, len(row.ids))) / len(row.answer)


def _kl(lm, prompt, subject, new, params):
    row = lm.encode([prompt], [""], [subject])[0]
    ids = list(row.ids)
    with torch.no_grad():
        token = int(lm.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
    positions = [len(ids) - 1]
    if token != lm.tokenizer.eos_token_id:
        ids.append(token)
        positions.append(len(ids) - 1)
    with torch.no_grad():
        unedited = lm.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    edited = _edited_logits(lm, ids, row.subject, new, params)
    return sum(float((unedited[p].exp() * (unedited[p] - edited[p])).sum()) for p in positions) / len(
        positions
    )


@pytest.mark.parametrize("kind", ["linear", "mlp", "free"])
@pytest.mark.parametrize("optimisation", ["joint", "alternating"])
def test_training_lowers_the_loss_and_keeps_the_best_epoch(kind: str, optimisation: str) -> None:
    lm = tiny.lm("llama")
    params = replace(
        PARAMS, hypernetwork=kind, optimisation=optimisation, lr=0.1, max_epochs=40, paraphrases=2
    )
    trainer = LKSTrainer(lm, prepare(lm, tiny.edits(4), params), params, seed=0)
    history = trainer.train()
    assert min(history) < 0.9 * history[0]
    with torch.no_grad():
        kept = trainer.loss(
            {part: [r for rows in own for r in rows] for part, own in trainer.material.owned.items()}
        )
    if optimisation == "joint":
        assert float(kept) == pytest.approx(min(history), rel=0.02)
    assert all(not p.requires_grad and p.grad is None for p in lm.model.parameters())


def test_early_stopping_counts_epochs_without_a_better_loss() -> None:
    lm = tiny.lm("llama")
    params = replace(PARAMS, lr=1e-30, patience=3, max_epochs=50, paraphrases=2)
    assert len(LKSTrainer(lm, prepare(lm, tiny.edits(4), params), params, 0).train()) <= 8


def test_two_runs_agree() -> None:
    lm = tiny.lm("mistral")
    params = replace(PARAMS, hypernetwork="mlp", max_epochs=5)
    tables = [LKSTrainer(lm, prepare(lm, tiny.edits(4), params), params, 3) for _ in range(2)]
    for t in tables:
        t.train()
    assert torch.equal(tables[0].networks.table(), tables[1].networks.table())


def test_works_inside_no_grad() -> None:
    lm = tiny.lm("llama")
    with torch.no_grad():
        history = LKSTrainer(lm, prepare(lm, tiny.edits(2), PARAMS), PARAMS, 0).train()
    assert history[-1] < history[0]


def test_edits_of_one_subject_share_a_block_and_its_key_joins_their_texts() -> None:
    lm = tiny.lm("llama")
    one, other = tiny.edits(2)
    second = replace(one, case_id="x", prompt=f"{one.subject} works for", target="Oslo")
    assert subjects_of([one, other, second]) == {one.subject: 0, other.subject: 1}
    made = prepare(lm, [one, other, second], PARAMS)
    assert made.keys.shape[:2] == (1, 2)
    alone = prepare(lm, [one, other], PARAMS)
    assert torch.allclose(made.keys[0, 1], alone.keys[0, 1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(made.keys[0, 0], alone.keys[0, 0], atol=1e-2)


def test_entity_key_is_the_state_of_the_name() -> None:
    lm = tiny.lm("llama")
    made = prepare(lm, tiny.edits(2), replace(PARAMS, key="entity"))
    ids = torch.tensor([lm.encode([tiny.NAMES[0]], [""])[0].ids])
    kept = {}
    handle = lm.block(1).register_forward_hook(lambda m, a, o: kept.update(h=o))
    with torch.no_grad():
        lm.model(input_ids=ids)
    handle.remove()
    torch.testing.assert_close(made.keys[0, 0], kept["h"][0, -1], rtol=1e-4, atol=1e-4)


def test_prompts_without_their_subject_are_counted() -> None:
    lm = tiny.lm("llama")
    edit = replace(tiny.edits(1)[0], training_locality=("Nobody works for",))
    made = prepare(lm, [edit], PARAMS)
    assert made.skipped == 1 and made.owned["locality"] == [[]]


@pytest.mark.parametrize(
    ("more", "message"), [("1", "ascending"), ("3, 2", "ascending"), ("9", "Block 9 does not exist")]
)
def test_blocks_out_of_order_are_refused_before_training(more: str, message: str) -> None:
    editor = LKS.for_model("micro-llama", "world", 2, {"block": "1", "more_blocks": more})
    with pytest.raises(UserError, match=message):
        editor.edit(tiny.lm("llama"), tiny.edits(2))


def test_two_blocks_through_the_whole_method() -> None:
    """What was trained at two blocks is put in at both, and generation follows."""
    lm = tiny.lm("llama")
    editor = LKS.for_model(
        "micro-llama",
        "world",
        3,
        {"block": "1", "more_blocks": "2", "max_epochs": "40", "lr": "0.1", "lambda_edit": "1"},
    )
    patch = editor.edit(lm, tiny.edits(3))
    assert patch.tensors()["table"].shape == (2, 3, lm.dim)
    row = lm.encode([tiny.edits(3)[0].prompt], [tiny.edits(3)[0].target])[0]
    before, after = (
        -float(F.cross_entropy(_last_logits(lm, row, made), torch.tensor(row.answer[0])))
        for made in (NoPatch(), patch)
    )
    assert after > before + 1


def _last_logits(lm, row, patch):
    with torch.no_grad(), patch.applied(lm):
        return lm.model(torch.tensor([row.ids[: row.n_prompt]])).logits[0, -1]


DROPS = {"hypernetwork": "free", "independent": True, "stop_loss": 5.0, "lr": 0.3, "locality_pool": 0}


@pytest.mark.parametrize("changes", [{}, {"optimisation": "alternating"}, DROPS])
def test_a_killed_training_goes_on_to_the_same_end(changes, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("lks.io.checkpoint.EVERY_S", 0.0)
    lm, kept = tiny.lm("llama"), Checkpoint(tmp_path / "training" / "a.state", "a")
    params = replace(PARAMS, max_epochs=6, batch_size=2, **changes)
    material = prepare(lm, tiny.edits(4), params)
    whole = LKSTrainer(lm, material, params, 0)
    history = whole.train()

    def killed(done: float) -> None:
        if done > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LKSTrainer(lm, material, params, 0).train(killed, kept)
    assert kept.path.exists()
    again = LKSTrainer(lm, material, params, 0)
    assert again.train(kept=kept) == history
    assert torch.equal(again.networks.table(), whole.networks.table())
    assert not list(kept.path.parent.iterdir())


def test_a_damaged_state_is_not_used(tmp_path) -> None:
    lm, kept = tiny.lm("llama"), Checkpoint(tmp_path / "a.state", "a")
    kept.path.write_bytes(b"not a state")
    params = replace(PARAMS, max_epochs=2)
    material = prepare(lm, tiny.edits(2), params)
    assert LKSTrainer(lm, material, params, 0).train(kept=kept) == LKSTrainer(lm, material, params, 0).train()


def test_a_loss_that_is_no_number_ends_a_training_at_the_best_weights_before(monkeypatch) -> None:
    lm, params = tiny.lm("llama"), replace(PARAMS, max_epochs=6, batch_size=4)
    for good in (0, 2):
        trainer = LKSTrainer(lm, prepare(lm, tiny.edits(4), params), params, 0)
        loss, states = trainer.loss, []

        def broken(chosen, loss=loss, states=states, trainer=trainer, good=good):
            states.append(trainer.networks.table().detach().clone())
            return loss(chosen) if len(states) <= good else loss(chosen) * math.nan

        monkeypatch.setattr(trainer, "loss", broken)
        history = trainer.train()
        assert len(history) == good + 1 and math.isnan(history[-1])
        best = min(range(good), key=history.__getitem__) + 1 if good else 0
        assert torch.equal(trainer.networks.table(), states[best])


def test_what_decides_a_training_names_its_state(monkeypatch) -> None:
    seen: list[Path] = []
    monkeypatch.setattr(LKSTrainer, "train", lambda self, progress, kept: seen.append(kept.path) or [])
    lm = tiny.lm("llama")
    for seed, count, epochs in ((0, 2, "3"), (0, 2, "3"), (1, 2, "3"), (0, 3, "3"), (0, 2, "4")):
        LKS.for_model("micro-llama", "world", 2, {"block": "1", "max_epochs": epochs}).edit(
            lm, tiny.edits(count), seed
        )
    assert seen[0] == seen[1] and len(set(seen)) == 4


def test_the_end_of_an_answer_is_a_label_where_asked_for() -> None:
    """One more position per row with a target; locality rows are as they are."""
    lm, edits = tiny.lm("llama"), tiny.training(2)
    end = lm.tokenizer.eos_token_id
    plain, ended = (prepare(lm, edits, LKSParams(block=1, end_of_answer=chosen)) for chosen in (False, True))
    for part, rows in plain.owned.items():
        assert ended.owned[part] == rows
        for row in chain(*rows):
            more = [] if part == "locality" else [end]
            assert ended.ids[row] == plain.ids[row] + more
            labels = [one.labels[one.offsets[row] : one.offsets[row + 1]].tolist() for one in (plain, ended)]
            assert labels[1] == labels[0] + more


def test_a_tokenizer_without_an_end_of_sequence_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny.lm("llama")
    monkeypatch.setitem(lm.tokenizer._special_tokens_map, "eos_token", None)
    with pytest.raises(UserError, match=r"no end-of-sequence token .* Set end_of_answer to false"):
        prepare(lm, tiny.training(1), LKSParams(block=1, end_of_answer=True))


@pytest.mark.parametrize(
    ("gate", "locality_for", "rows"),
    [("contrast", "ungated", 0), ("relation", "ungated", 0), ("none", "ungated", 3), ("contrast", "all", 3)],
)
def test_edits_behind_a_gate_have_no_locality_rows_where_that_is_asked_for(
    gate: GateKind, locality_for: LocalityFor, rows: int
) -> None:
    params = LKSParams(block=1, locality_prompts=1, locality_for=locality_for, gate=gate)
    made = prepare(tiny.lm("llama"), tiny.training(3), params)
    assert sum(bool(own) for own in made.owned["locality"]) == rows


def test_states_are_computed_in_the_number_format_of_the_training() -> None:
    """They are kept in it, and are near those of the model's own."""
    lm, edits = tiny.lm("llama"), tiny.training(3)
    params = LKSParams(block=1)
    whole, half = (prepare(lm, edits, replace(params, precision=p)) for p in ("model", "bfloat16"))
    assert (whole.cached.flat.dtype, half.cached.flat.dtype) == (torch.float32, torch.bfloat16)
    cosine = torch.cosine_similarity(half.cached.flat.float(), whole.cached.flat)
    assert 0.99 < cosine.mean() < 0.99999
    assert next(lm.decoder.parameters()).dtype == torch.float32


def test_free_vectors_need_no_inputs() -> None:
    lm, edits = tiny.lm("llama"), tiny.training(3)
    made = prepare(lm, edits, LKSParams(block=1, hypernetwork="free"))
    assert made.keys is made.own
    torch.testing.assert_close(made.own, prepare(lm, edits, LKSParams(block=1)).own)


def test_independent_vectors_train_on_the_paraphrase_with_the_highest_loss() -> None:
    """Those that have not been in a step come first, in their order."""
    made = prepare(tiny.lm("llama"), tiny.training(2), LKSParams(block=1, hypernetwork="free"))
    latest = LatestLosses(made, 1.0)
    rows = [0, 1, 2, 3]
    assert latest.hardest(rows, 2) == [0, 1]
    latest.rows[:4] = torch.tensor([0.2, UNSEEN, 0.9, 0.4])
    assert latest.hardest(rows, 3) == [1, 2, 3]
    assert latest.hardest(rows, 9) == [1, 2, 3, 0]


def test_edits_that_are_learnt_leave_the_training() -> None:
    """Their vectors stay as they are; the history counts them all the same."""
    lm, edits = tiny.lm("llama"), tiny.training(3)
    params = LKSParams(
        block=1,
        hypernetwork="free",
        lr=0.5,
        weight_decay=0.0,
        batch_size=1,
        independent=True,
        locality_pool=0,
    )
    trainer = LKSTrainer(lm, prepare(lm, edits, params), params, 0)
    owned = trainer.material.owned
    assert trainer.latest.learnt(1e9) == [False] * 3  # no row has been in a step
    assert [batch["edit"] for batch in sorted(trainer._epoch_batches(), key=str)] == owned["edit"]
    trainer.latest.rows.fill_(0.5)
    trainer.latest.rows[owned["paraphrase"][1]] = 0.001
    trainer.latest.rows[owned["edit"][1]] = 0.001
    assert trainer.latest.learnt(0.01) == [False, True, False]
    assert [batch["edit"] for batch in sorted(trainer._epoch_batches(), key=str)] == [[0], [2]]
    assert trainer.latest.mean() == pytest.approx(2 * (0.5 + 0.5 + 0.001) / 3)
    trainer.latest.rows.fill_(0.0)
    assert trainer.train() == []  # nothing is left to learn


@pytest.mark.parametrize("batch", [1, 3])
def test_independent_vectors_are_the_same_with_other_edits_beside_them(batch: int) -> None:
    """So edits can be added later without training the others again. Sums are over other rows, so not bit for bit."""
    lm, edits = tiny.lm("llama"), tiny.training(4)
    params = LKSParams(
        block=1, hypernetwork="free", form="residual", lr=0.5, batch_size=batch, max_epochs=4, independent=True,
        locality_pool=0,
    )  # fmt: skip
    whole = LKS(params).edit(lm, edits).tensors()["table"]
    part = LKS(params).edit(lm, edits[:1]).tensors()["table"]
    torch.testing.assert_close(whole[:, :1], part, rtol=1e-3, atol=1e-4)


def test_only_free_vectors_can_be_independent() -> None:
    with pytest.raises(UserError, match=r'independent = true .* Set hypernetwork = "free"'):
        LKS(LKSParams(block=1, independent=True)).edit(tiny.lm("llama"), tiny.training(1))
