"""Speed of evaluating an edited model in batches from one prefill, against one probe at a time.

The batched way is `lks.evaluation.readouts.ask`. The plain way uses `generate`: it runs for each probe one
forward pass over prompt and answer (teacher forcing), one over prompt and rival if there is one, and one call
of `generate` for the free answer, whose first tokens are the truncated answer. It is measured on an evenly
spread sample of the probes and scaled; on this sample its answers must equal the batched ones. The second
table measures what should stay unchanged in a model with knowledge blocks, with and without reusing the
unedited model's answers where the scope indicator proves that nothing acts. The third table measures sixteen
draws of one edit, each with a change of one weight matrix, side by side (`lks.evaluation.side_by_side`) and
one draw after the other.

Run: `python -m benchmarks.ask_speed [MODEL] [N_EDITS] [--dataset NAME] [--sample N]`
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lks.data.datasets import load
from lks.data.neighborhood import with_neighbours
from lks.editing.patch import WeightPatch
from lks.edits import Case, Probe
from lks.evaluation.ability import TaskSuite
from lks.evaluation.ability_requests import ReusableReplies as KnownResults
from lks.evaluation.profiling import now
from lks.evaluation.readouts import LONGEST, Asking, ReusableAnswers, acts_of, ask, ask_draws, key_of, same
from lks.evaluation.side_by_side import SideBySide
from lks.method.replacer import KnowledgeBlockPatch
from lks.models.generation import Stops
from lks.models.lm import LM
from lks.results.answers import Answer
from lks.results.cells import UNEDITED, Cell
from lks.runs.draws import draws, unedited

SAMPLE = 200
DOCUMENTS = 100
DRAWS = 16

T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Run some work and return its result and its seconds."""
    start = now("wall")
    made = work()
    return made, now("wall") - start


class Plain:
    """Plain evaluation of one probe at a time."""

    def __init__(self, lm: LM) -> None:
        self.lm, self.stops = lm, Stops(lm)

    @torch.no_grad()
    def __call__(self, probe: Probe) -> tuple[list[int], list[int], str, float, float | None]:
        """Return teacher-forced tokens, own tokens, free answer, log p of the answer and of its rival."""
        best, logprob, prompt = self.forced(probe.prompt, probe.answer)
        rival = self.forced(probe.prompt, probe.rival)[1] if probe.rival else None
        said = self.free(prompt)
        own = said[: len(best)]
        while len(own) < len(best):  # generation stopped earlier
            logits = self.lm.model(input_ids=torch.tensor([[*prompt, *own]], device=self.lm.device)).logits
            own.append(int(logits[0, -1].argmax()))
        return (
            best,
            own,
            str(self.lm.tokenizer.decode(said, skip_special_tokens=True)).strip(" "),
            logprob,
            rival,
        )

    def forced(self, prompt: str, answer: str) -> tuple[list[int], float, list[int]]:
        """Return the argmax at the answer's tokens, their log p, and the prompt's tokens."""
        (row,) = self.lm.encode([prompt], [answer])
        logits = (
            self.lm.model(input_ids=torch.tensor([row.ids], device=self.lm.device))
            .logits[0, row.n_prompt - 1 : -1]
            .float()
            .log_softmax(-1)
        )
        return (
            logits.argmax(-1).tolist(),
            float(logits[range(len(row.answer)), row.answer].sum()),
            row.ids[: row.n_prompt],
        )

    def free(self, prompt: Sequence[int]) -> list[int]:
        """Generate greedy tokens up to the natural stop."""

        def ended(ids: torch.Tensor, _scores: object, **_kwargs: object) -> torch.Tensor:
            made = ids[0, len(prompt) :]
            stops = self.stops.end[made[-1]] or (
                self.stops.newline[made[-1]] and self.stops.word[made[:-1]].any()
            )
            return torch.tensor([bool(stops)], device=ids.device)

        ids = torch.tensor([list(prompt)], device=self.lm.device)
        settings: dict[str, Any] = {
            "max_new_tokens": LONGEST,
            "do_sample": False,
            "pad_token_id": self.lm.tokenizer.pad_token_id,
        }
        made = self.lm.model.generate(
            ids, attention_mask=torch.ones_like(ids), stopping_criteria=[ended], **settings
        )  # type: ignore[operator]
        return [int(token) for token in made[0, len(prompt) :]]


def different(answer: Answer, plain: tuple[list[int], list[int], str, float, float | None]) -> bool:
    """Return whether the two ways give different answers, or likelihoods beyond rounding differences."""
    best, own, text, *scores = plain
    near = all(
        (a is None) == (b is None) and (a is None or b is None or abs(a - b) <= 1e-3 * max(1.0, abs(b)))
        for a, b in zip((answer.answer_logprob, answer.rival_logprob), scores, strict=True)
    )
    return not near or (answer.tf_ids, answer.ar_ids, answer.wild_text) != (tuple(best), tuple(own), text)


def against_plain(lm: LM, cases: Sequence[Case], sample: int, console: Console) -> None:
    """Print the seconds of the batched and the plain way and their ratio."""
    probes = [probe for case in cases for probe in case.probes]
    chosen = range(0, len(probes), max(1, len(probes) // sample))
    plain = Plain(lm)
    plain(probes[0])
    ask(lm, cases[:2])
    first, before_s = timed(lambda: [plain(probes[i]) for i in chosen[::2]])
    answers, batched_s = timed(lambda: ask(lm, cases))
    second, after_s = timed(lambda: [plain(probes[i]) for i in chosen[1::2]])
    said = dict(zip([*chosen[::2], *chosen[1::2]], [*first, *second], strict=True))
    plain_s = (before_s + after_s) * len(probes) / len(said)
    wrong = [i for i in said if different(answers[i], said[i])]
    table = Table(
        title=f"{lm.name}: {len(cases):,} cases, {len(probes):,} probes",
        box=None,
        header_style="bold",
        title_justify="left",
    )
    for heading in (
        "one by one s (scaled)",
        "batched s",
        "ratio",
        "probes per second",
        "mean free tokens",
        "different",
    ):
        table.add_column(heading, justify="right")
    tokens = sum(answer.wild_tokens for answer in answers) / len(answers)
    numbers = (
        f"{plain_s:,.1f}",
        f"{batched_s:,.1f}",
        f"{plain_s / batched_s:.1f}",
        f"{len(probes) / batched_s:,.0f}",
        f"{tokens:.1f}",
    )
    table.add_row(*numbers, f"{len(wrong)} of {len(said)}")
    console.print(table)


def with_and_without(lm: LM, cases: Sequence[Case], spare: Sequence[Case], console: Console) -> None:
    """Print seconds for what should stay unchanged, with and without reusing the unedited model's answers.

    The knowledge blocks are random, which costs the same.
    """
    table = torch.randn(1, len(cases), lm.dim, generator=torch.Generator().manual_seed(0))
    patch = KnowledgeBlockPatch(
        [[case.edit.subject, *case.edit.aliases] for case in cases],
        table,
        (len(lm.blocks) // 2,),
        "last",
        "exact",
    )
    asked = with_neighbours(cases, spare, 0)
    shown = Table(
        title="What should stay unchanged, under knowledge blocks",
        box=None,
        header_style="bold",
        title_justify="left",
    )
    for heading in ("asked", "of which nothing acts on", "all asked s", "reused s", "ratio"):
        shown.add_column(heading, justify="left" if heading == "asked" else "right")
    battery = TaskSuite(["made"], DOCUMENTS)
    known = ReusableAnswers(
        {key_of(answer): answer for answer in ask(lm, asked, Asking(kinds=("neighbour",)))},
        acts_of(patch, lm),
    )
    results = battery.run(lm)
    with patch.applied(lm):
        whole, whole_s = timed(lambda: ask(lm, asked, Asking(kinds=("neighbour",))))
        part, part_s = timed(lambda: ask(lm, asked, Asking(kinds=("neighbour",), known=known)))
        untouched = sum(not acts for acts in known.acts([answer.prompt for answer in whole]) or [])
        equal = [(a.tf_ids, a.ar_ids, a.wild_text) for a in whole] == [
            (a.tf_ids, a.ar_ids, a.wild_text) for a in part
        ]
        shown.add_row(
            f"{len(whole)} neighbours",
            f"{untouched}",
            f"{whole_s:.2f}",
            f"{part_s:.2f}",
            f"{whole_s / part_s:.1f}",
        )
        every, every_s = timed(lambda: battery.run(lm))
        some, some_s = timed(lambda: battery.run(lm, known=KnownResults.of(results, acts_of(patch, lm))))
        equal = equal and [row.score for row in every] == [row.score for row in some]
        shown.add_row(
            f"{battery.size} requests of ability tests",
            "",
            f"{every_s:.2f}",
            f"{some_s:.2f}",
            f"{every_s / some_s:.1f}",
        )
    console.print(shown)
    console.print("The answers are the same." if equal else "THE ANSWERS DIFFER.")


def side_by_side(lm: LM, cases: Sequence[Case], console: Console) -> None:
    """Print seconds for draws of one edit, evaluated together and one after the other.

    The changes are random, which costs the same.
    """
    layer = lm.mlp_output(len(lm.blocks) // 2)
    name, weight = lm.parameter_name(layer), cast(Tensor, layer.weight)
    noise = torch.Generator().manual_seed(0)
    patches = {
        n: WeightPatch({name: 0.1 * weight.std() * torch.randn(weight.shape, generator=noise).to(weight)})
        for n in range(DRAWS)
    }
    sets = {number: [cases[number]] for number in patches}
    beside = SideBySide.of(lm, patches)
    assert beside is not None

    def alone() -> list[Answer]:
        made: list[Answer] = []
        for number, patch in patches.items():
            with patch.applied(lm):
                made += ask(lm, sets[number], Asking(draw=number))
        return made

    first, before_s = timed(alone)
    with beside.applied():
        together, together_s = timed(lambda: ask_draws(lm, sets, Asking()))
    _, after_s = timed(alone)
    one_by_one_s = (before_s + after_s) / 2
    different = sum(not same(a, b) for a, b in zip(first, together, strict=True))
    table = Table(
        title=f"{DRAWS} draws of one edit, one changed matrix each",
        box=None,
        header_style="bold",
        title_justify="left",
    )
    for heading in ("one draw after the other s", "side by side s", "ratio", "probes", "different"):
        table.add_column(heading, justify="right")
    table.add_row(
        f"{one_by_one_s:.2f}",
        f"{together_s:.2f}",
        f"{one_by_one_s / together_s:.1f}",
        f"{len(first)}",
        f"{different}",
    )
    console.print(table)


def main(argv: Sequence[str] | None = None) -> None:
    """Print all three tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ask_speed", description="Batched evaluation against one probe at a time."
    )
    parser.add_argument("model", nargs="?", default="micro-llama")
    parser.add_argument("n_edits", nargs="?", type=int, default=1000)
    parser.add_argument("--dataset", default="world")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="number of probes to evaluate one by one")
    asked = parser.parse_args(argv)
    lm, cases, console = LM.load(asked.model), load(asked.dataset).cases, Console()
    against_plain(
        lm,
        draws(cases, Cell(asked.model, asked.dataset, UNEDITED, asked.n_edits, 0, 1))[0],
        asked.sample,
        console,
    )
    half = Cell(asked.model, asked.dataset, UNEDITED, min(asked.n_edits, len(cases) // 2), 0, 1)
    with_and_without(lm, draws(cases, half)[0], unedited(cases, half), console)
    side_by_side(lm, cases, console)


if __name__ == "__main__":
    main()
