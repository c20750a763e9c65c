"""Batches of many patches: every answer is the one that its patch alone gives."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from baselines._in_context.retrieval_patch import FactsInFront, FactText, Lookup
from baselines.grace import CodebookPatch
from baselines.wise import SideMemoryPatch
from lks.editing.patch import NoPatch, Patch, WeightPatch
from lks.method.relation_gate import RelationGate
from lks.method.replacer import KnowledgeBlockPatch
from lks.models.lm import LM
from tests.baselines.test_serac import patched as serac
from tests.helpers import tiny
from workbench.serving.batch import GeneratingRow, Sampling, choose
from workbench.serving.engine import Engine
from workbench.serving.text_stream import TextStream
from workbench.serving.ticket import Closed, Full, Ticket

PROMPTS = [
    f"{form.format(name)}"
    for name in tiny.NAMES
    for form in ("{} was born in", "The birthplace of {} is", "Oslo, Cairo: {} works for")
]
PROMPTS += ["Nobody was born in", "Ada Moss works for Tomas Verin and Ada Moss", "is"]
SERVED = (
    "plain",
    "first",
    "second",
    "gated",
    "dense",
    "low rank",
    "facts",
    "norm",
    "codebook",
    "memory",
    "scope",
)
OWN = {"norm", "codebook", "memory", "scope"}


def noise(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def patches(lm: LM) -> dict[str, Patch]:
    """One or more of every kind, the first two with other blocks for the same subjects."""
    d, names = lm.dim, [[name] for name in tiny.NAMES]
    wide = [lm.parameter_name(lm.mlp_output(i)) for i in (1, 3)]
    rows, columns = dict(lm.model.named_parameters())[wide[0]].shape
    inner = max(rows, columns)
    gate = RelationGate.of(noise(5, 5, d), torch.arange(5), torch.zeros(d), 0.0)
    norm = next(name for name, p in lm.model.named_parameters() if p.ndim == 1)
    low = {
        f"{wide[1]}.left": noise(7, rows, 2, scale=0.5),
        f"{wide[1]}.right": noise(8, 2, columns, scale=0.5),
    }
    attention = lm.parameter_name(lm.attention_output(0))
    return {
        "plain": NoPatch(),
        "first": KnowledgeBlockPatch(names, noise(1, 1, 5, d, scale=10), (1,), "last", "exact"),
        "second": KnowledgeBlockPatch(names[:3], noise(2, 2, 3, d, scale=10), (1, 2), "all", "exact"),
        "gated": KnowledgeBlockPatch(names, noise(3, 1, 5, d, scale=10), (1,), "last", "exact", gate=gate),
        "dense": WeightPatch(
            {wide[0]: noise(6, rows, columns, scale=0.4), attention: noise(9, d, d, scale=0.4)}
        ),
        "low rank": WeightPatch(low),
        "facts": FactsInFront(
            [FactText(f"{n} was born in", "Quito", (), n) for n in tiny.NAMES],
            [],
            Lookup("tfidf", "", 1, 0.3, ""),
        ),
        "norm": WeightPatch({norm: noise(10, d, scale=2.0)}),
        "codebook": CodebookPatch(1, noise(11, 3, inner), noise(12, 3, d, scale=10), torch.full((3,), 1e6)),
        "memory": SideMemoryPatch(2, noise(13, 1, inner, d, scale=0.3), torch.zeros(1), "last"),
        "scope": serac(lm),
    }


def alone(lm: LM, patch: Patch, prompt: Sequence[int], count: int) -> list[int]:
    ids = torch.tensor([prompt])
    with patch.applied(lm):
        return lm.greedy(ids, torch.ones_like(ids), count)[0, len(prompt) :].tolist()


@contextmanager
def running(lm: LM, most: int = 8, waiting: int = 1000, start: bool = True) -> Iterator[Engine]:
    engine = Engine(lm, patches(lm), most, waiting)
    if start:
        engine.start()
    try:
        yield engine
    finally:
        engine.end()


class Noting(TextStream):
    """Keeps the tokens themselves."""

    def __init__(self, lm: LM) -> None:
        super().__init__(lm.pieces)
        self.tokens: list[int] = []

    def push(self, token: int) -> str:
        self.tokens.append(token)
        return super().push(token)


def row_of(
    engine: Engine, name: str, ids: Sequence[int], count: int, sampling: Sampling | None = None, seed: int = 0
) -> GeneratingRow:
    patch = engine.by_row[name]
    read = list(ids) if patch is None else patch.prompt(ids)
    return GeneratingRow(read, patch, sampling or Sampling(count), Noting(engine.lm), random.Random(seed))


async def told(ticket: Ticket) -> list[str]:
    """Why each row ended."""
    ends: dict[int, str] = {}
    while len(ends) < len(ticket.rows):
        piece = await asyncio.wait_for(ticket.news.get(), 60)
        if piece.finish is not None:
            ends[piece.row] = piece.finish
    return [ends[i] for i in range(len(ends))]


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_kinds_share_batches_as_documented(family: str) -> None:
    lm = tiny.lm(family)
    engine = Engine(lm, patches(lm), 1, 1)
    assert {name for name, patch in engine.by_row.items() if patch is None} == OWN
    assert set(engine.patches) == set(SERVED)


@pytest.fixture(scope="module", params=["llama", "mistral", "gpt2"])
def lm(request: pytest.FixtureRequest) -> LM:
    return tiny.lm(request.param)


Mix = st.lists(
    st.tuples(st.sampled_from(SERVED), st.sampled_from(PROMPTS), st.integers(1, 12), st.integers(0, 3)),
    min_size=2,
    max_size=14,
)


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(mix=Mix, most=st.integers(1, 6), at_once=st.integers(0, 8))
def test_any_mix_gives_every_row_its_own_patchs_answer(
    lm: LM, mix: list[tuple[str, str, int, int]], most: int, at_once: int
) -> None:
    made = patches(lm)
    encoded = [list(lm.tokenizer(prompt)["input_ids"]) for _, prompt, _, _ in mix]
    expected = [
        alone(lm, made[name], ids, count) for (name, _, count, _), ids in zip(mix, encoded, strict=True)
    ]
    before = {name: p.clone() for name, p in lm.model.named_parameters()}

    async def all_of_it() -> list[Ticket]:
        with running(lm, most, start=False) as engine:
            tickets = []
            for number, ((name, _, count, pause), ids) in enumerate(zip(mix, encoded, strict=True)):
                if number == at_once:  # those before are read together, in one mixed prefill
                    engine.start()
                ticket = Ticket(
                    [row_of(engine, name, ids, count)], made[name] if engine.by_row[name] is None else None
                )
                engine.submit(ticket)
                tickets.append(ticket)
                for _ in range(pause if number >= at_once else 0):  # the next joins some steps later
                    await asyncio.sleep(0.001)
            if at_once >= len(mix):
                engine.start()
            for ticket in tickets:
                assert (await told(ticket))[0] in ("stop", "length")
            return tickets

    tickets = asyncio.run(all_of_it())
    for ticket, answer, (name, prompt, _, _) in zip(tickets, expected, mix, strict=True):
        ends = [i for i, token in enumerate(answer) if token == lm.tokenizer.eos_token_id]
        text = ticket.rows[0].text
        assert isinstance(text, Noting)
        assert text.tokens == answer[: ends[0] if ends else None], (name, prompt)
    assert all(torch.equal(before[name], p) for name, p in lm.model.named_parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())


def test_patches_of_the_same_subjects_differ(lm: LM) -> None:
    """Else the test above could not see a mix-up."""
    ids = list(lm.tokenizer(PROMPTS[0])["input_ids"])
    answers = {tuple(alone(lm, patch, ids, 12)) for patch in patches(lm).values()}
    assert len(answers) >= len(SERVED) - 2


def test_a_seed_gives_the_same_answer_whatever_else_is_in_the_batch() -> None:
    lm = tiny.lm("llama")
    ids = [list(lm.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    hot = Sampling(12, temperature=1.5, top_p=0.9)

    async def among(others: int, seed: int) -> list[int]:
        with running(lm) as engine:
            rows = [row_of(engine, "first", ids[i], 9, seed=i) for i in range(others)] + [
                row_of(engine, "second", ids[0], 12, hot, seed)
            ]
            ticket = Ticket(rows)
            engine.submit(ticket)
            await told(ticket)
            text = rows[-1].text
            assert isinstance(text, Noting)
            return text.tokens

    answers = [[asyncio.run(among(others, seed)) for others in (0, 3, 6)] for seed in (1, 2, 3)]
    assert all(one == answer[0] for answer in answers for one in answer)
    assert len({tuple(answer[0]) for answer in answers}) == 3


def test_tokens_are_drawn_as_their_probabilities_say() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(4000, 1)
    draws = [random.Random(i) for i in range(4000)]

    def shares(temperature: float, top_p: float) -> list[float]:
        tokens = choose(logits, [Sampling(1, temperature, top_p)] * 4000, draws)
        return (torch.bincount(tokens, minlength=4) / 4000).tolist()

    assert shares(1.0, 1.0) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    assert shares(1.0, 0.7) == pytest.approx(
        [0.625, 0.375, 0, 0], abs=0.03
    )  # the smallest set with at least 0.7
    assert shares(0.5, 1.0) == pytest.approx(
        [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365], abs=0.03
    )
    assert shares(0.0, 1.0) == [1, 0, 0, 0]


def test_full_closed_and_cancelled() -> None:
    lm = tiny.lm("llama")
    ids = list(lm.tokenizer(PROMPTS[0])["input_ids"])

    async def tried() -> None:
        with running(lm, most=1, waiting=1) as engine:
            long = Ticket([row_of(engine, "plain", ids, 10_000)])
            engine.submit(long)
            engine.submit(waits := Ticket([row_of(engine, "first", ids, 3)]))
            with pytest.raises(Full):
                engine.submit(Ticket([row_of(engine, "first", ids, 3)]))
            long.cancel()
            assert (await told(waits)) == ["length"]
            assert engine.load == 0
            engine.close()
            with pytest.raises(Closed):
                engine.submit(Ticket([row_of(engine, "first", ids, 3)]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workbench.serving.engine.ends_of", lambda lm: [])
        lm.model.config.max_position_embeddings = 20_000
        asyncio.run(tried())


def test_a_batch_that_fails_takes_no_other_with_it() -> None:
    lm = tiny.lm("llama")
    ids = list(lm.tokenizer(PROMPTS[0])["input_ids"])

    async def tried() -> None:
        with running(lm) as engine:
            broken = CodebookPatch(
                1, noise(1, 2, 7), noise(2, 2, lm.dim), torch.ones(2)
            )  # keys of the wrong width
            bad, good = (
                Ticket([row_of(engine, "codebook", ids, 3)], broken),
                Ticket([row_of(engine, "first", ids, 3)]),
            )
            engine.submit(bad)
            engine.submit(good)
            assert (await told(bad)) == ["error"]
            assert (await told(good)) == ["length"]
            assert engine.load == 0 and not engine.failed

    asyncio.run(tried())


def test_ending_tells_all_that_wait() -> None:
    lm = tiny.lm("llama")
    ids = list(lm.tokenizer(PROMPTS[0])["input_ids"])

    async def tried() -> None:
        with running(lm, most=1) as engine:
            tickets = [Ticket([row_of(engine, "plain", ids, 10_000)]) for _ in range(3)]
            for ticket in tickets:
                engine.submit(ticket)
            engine.end()
            assert [await told(ticket) for ticket in tickets] == [["error"]] * 3

    asyncio.run(tried())


def test_all_patches_in_one_prefill_and_some_steps(lm: LM) -> None:
    """Every row of a mixed batch, each prompt with each patch that can share it; the shortest leave first."""
    made = patches(lm)
    shared = [name for name in SERVED if name not in OWN]
    wanted = [
        (name, list(lm.tokenizer(prompt)["input_ids"]), 2 + i % 7)
        for i, (name, prompt) in enumerate((n, p) for p in PROMPTS[:6] for n in shared)
    ]

    async def together() -> list[GeneratingRow]:
        with running(lm, len(wanted), start=False) as engine:
            ticket = Ticket([row_of(engine, name, ids, count) for name, ids, count in wanted])
            engine.submit(ticket)
            engine.start()
            await told(ticket)
            assert engine.steps == 8
            return ticket.rows

    for row, (name, ids, count) in zip(asyncio.run(together()), wanted, strict=True):
        answer = alone(lm, made[name], ids, count)
        assert isinstance(row.text, Noting)
        assert (
            row.text.tokens
            == answer[
                : next((i for i, token in enumerate(answer) if token == lm.tokenizer.eos_token_id), None)
            ]
        ), name
