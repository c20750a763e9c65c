"""All that is to be measured on a GPU, in one command that ends within its time and keeps what is finished.

Run: `python -m benchmarks.gpu [--limit 540] [--out FILE] [--model FOLDER_OR_FILE] [--only NAME,NAME]`

The steps, in this order, each left out where the time that is left does not suffice for it:

- `roofline`: rate of a plain bfloat16 matrix product and of a copy: what the machine does at most;
- `lks-1000`, `lks-10000`: LKS on the Llama-2-7B shape with random weights: seconds per edit (target 0.06 at T = 1,000), share of the
  product's rate, memory (target: 10,000 edits within 80 GB);
- `overhead`: what a patch adds to a forward pass of that model (targets 1 and 2 %);
- `memit-1000`: MEMIT on the same shape, statistics of few tokens, their time apart;
- `real-1000`, `real-10000`: LKS on a real model, named by `--model`, with real records where they can be had: seconds, and the share of 200 edits
  that the edited model answers.

Without a GPU all of it runs in miniature, which tries the code and measures nothing. Nothing is fetched. After each step the JSON file is
written again.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import baselines
from benchmarks import inference_overhead, lks_shape
from benchmarks.shapes import SHAPES, random_model
from flows.settings import Settings
from lks.data.datasets import load
from lks.editing.editor import Editor, override
from lks.edits import Case
from lks.errors import UserError, unknown
from lks.evaluation.profiling import measured
from lks.evaluation.readouts import Asking, ask
from lks.io.atomic import write_whole
from lks.method.params import LKSParams
from lks.models.lm import LM
from lks.models.memory import release
from lks.results.provenance import provenance

Result = dict[str, object]
LIMIT_S = 540.0
ASKED = 200
"""Edits of a real model that are asked afterwards."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the steps are.

    Attributes:
        shape: of the random model (`benchmarks.shapes`).
        few, many: the two numbers of edits.
        side: of the square matrices of the product.
        overhead_s: seconds per row of the overhead's table.
        kinds: what overhead is measured of, "prefill" and "generate".
        epochs: of LKS; the published number.
        corpus_tokens: for MEMIT's statistics.
    """

    shape: str
    few: int
    many: int
    side: int
    overhead_s: float
    kinds: tuple[str, ...]
    epochs: int
    corpus_tokens: int


FULL = Scale("llama-2-7b", 1_000, 10_000, 8_192, 3.0, ("prefill", "generate"), 20, 20_000)
MINIATURE = Scale("miniature", 4, 8, 128, 0.0, ("prefill",), 1, 500)


@dataclass(frozen=True, slots=True)
class Step:
    """One measurement.

    Attributes:
        name: as in the module's list.
        seconds: what it takes on an H100 or H200, by counting operations; an estimate until it was measured once.
        run: does it.
    """

    name: str
    seconds: float
    run: Callable[[], Result]


class GpuBenchmark:
    """The steps and what they share.

    Args:
        scale: how large.
        model: folder or file of a real model; "" leaves those steps out.
    """

    def __init__(self, scale: Scale, model: str) -> None:
        self.scale, self.model = scale, model

    def steps(self) -> list[Step]:
        """Return all steps in order."""
        few, many = self.scale.few, self.scale.many
        found = [
            Step("roofline", 5, self.roofline),
            Step(f"lks-{few}", 75, lambda: self.lks(few)),
            Step("overhead", 60, self.overhead),
            Step(f"memit-{few}", 120, lambda: self.memit(few)),
            Step(f"lks-{many}", 240, lambda: self.lks(many)),
        ]
        real = [Step(f"real-{n}", cost, lambda n=n: self.real(n)) for n, cost in ((few, 30), (many, 200))]  # type: ignore[misc]
        return [*found[:2], real[0], *found[2:], real[1]] if self.model else found

    @cached_property
    def random(self) -> LM:
        """The model of random weights, made once."""
        return random_model(self.scale.shape)

    @cached_property
    def real_lm(self) -> LM:
        """The real model, loaded once."""
        return LM.load(self.model)

    def roofline(self) -> Result:
        """Time a product of two square matrices and a copy of one, the best of some."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        a = torch.randn(self.scale.side, self.scale.side, device=device, dtype=torch.bfloat16)
        product, copy = _best(lambda: a @ a), _best(a.clone)
        return {
            "matmul_tflops": 2 * self.scale.side**3 / product / 1e12,
            "copy_gb_per_s": 2 * a.numel() * a.element_size() / copy / 1e9,
        }

    def lks(self, count: int) -> Result:
        """Train LKS at the published number of epochs."""
        block = SHAPES[self.scale.shape].block
        params = LKSParams(
            block, max_epochs=self.scale.epochs, patience=self.scale.epochs, stop_loss=0.0, precision="fast"
        )
        found, _ = lks_shape.measure(self.random, lks_shape.edits_of(count), params)
        peak = lks_shape.peak_tflops()
        return {
            **asdict(found),
            "per_edit_s": found.per_edit,
            "share_of_makers_peak": found.tflops / peak if peak else None,
        }

    def overhead(self) -> Result:
        """Measure what a patch adds to prefill and generation, at batch 1 and 32."""
        edits = lks_shape.edits_of(self.scale.few)
        rows = inference_overhead.overheads(
            self.random, edits, SHAPES[self.scale.shape].block, self.scale.overhead_s, self.scale.kinds
        )
        return {"rows": [{**asdict(row), "share_percent": row.share} for row in rows]}

    def memit(self, count: int) -> Result:
        """Edit with MEMIT; its statistics apart."""
        method = baselines.methods()["memit"]
        preset = method.untuned(len(self.random.blocks), self.random.dim)
        assert preset is not None
        editor: Editor[object] = method(
            override(preset(count, ""), {"corpus": "world", "corpus_tokens": str(self.scale.corpus_tokens)})
        )
        with measured() as preparing:
            editor.prepare(self.random)
        with measured() as editing:
            editor.edit(self.random, lks_shape.edits_of(count))
        return {
            "n_edits": count,
            "prepare_s": preparing.seconds,
            "edit_s": editing.seconds,
            "per_edit_s": editing.seconds / count,
            "peak_bytes": editing.peak_bytes,
        }

    def real(self, count: int) -> Result:
        """Edit a real model by LKS's rule, and ask some of the edits."""
        lm, cases = self.real_lm, real_cases(count)
        method = baselines.methods()["lks"]
        preset = method.preset(lm.name) or method.untuned(len(lm.blocks), lm.dim)
        assert preset is not None
        with measured() as editing:
            patch = method(preset(len(cases), "zsre")).edit(lm, [case.edit for case in cases])
        with patch.applied(lm), measured() as asking:
            answers = ask(lm, cases[:: max(1, len(cases) // ASKED)], Asking(kinds=("edit", "paraphrase")))
        right = {
            kind: [a.ar_ids == a.answer_ids for a in answers if a.kind == kind]
            for kind in ("edit", "paraphrase")
        }
        return {
            "model": Path(lm.name).name,
            "n_edits": len(cases),
            "edit_s": editing.seconds,
            "per_edit_s": editing.seconds / len(cases),
            "peak_bytes": editing.peak_bytes,
            "asked": len(answers),
            "ask_s": asking.seconds,
            **{f"{kind}_ar_exact": sum(each) / len(each) if each else None for kind, each in right.items()},
        }


def real_cases(count: int) -> Sequence[Case]:
    """Return real records where they can be had without fetching anything, else those of the synthetic world."""
    try:
        return load("zsre").cases[:count]
    except UserError:
        return load("world").cases[:count]


def _best(work: Callable[[], object], rounds: int = 8) -> float:
    """Return the fewest seconds that a piece of work takes."""
    taken = []
    for _ in range(rounds):
        with measured() as meter:
            work()
        taken.append(meter.seconds)
    return min(taken)


def run(
    steps: Sequence[Step], limit: float, keep: Callable[[dict[str, Result]], None]
) -> Iterator[tuple[Step, Result]]:
    """Run the steps that fit; each result is kept before the next step begins.

    Args:
        steps: in order.
        limit: seconds for all of them.
        keep: called after each step with all results so far.
    """
    began, results = time.perf_counter(), dict[str, Result]()
    for step in steps:
        left = limit - (time.perf_counter() - began)
        if step.seconds > left:
            result: Result = {"left_out": f"needs about {step.seconds:.0f} s, {max(left, 0):.0f} s are left"}
        else:
            start = time.perf_counter()
            try:
                result = step.run()
            except (
                UserError,
                RuntimeError,
                ValueError,
                FloatingPointError,
            ) as error:  # the other steps are still worth having
                result = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
            result["took_s"] = time.perf_counter() - start
            release()
        results[step.name] = result
        keep(results)
        yield step, result


def summary(results: dict[str, Result]) -> Table:
    """Return the table that is printed at the end."""
    table = Table("step", "result", box=None, header_style="bold")
    for name, result in results.items():
        numbers = [f"{key} {value:,.4g}" for key, value in result.items() if isinstance(value, (int, float))]
        table.add_row(name, str(result.get("left_out") or result.get("error") or ", ".join(numbers)))
    return table


def _short(result: Result) -> str:
    """Say in one line how a step ended."""
    return str(result.get("left_out") or result.get("error") or f"{result['took_s']:.1f} s")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--limit", type=float, default=LIMIT_S, help="seconds that all steps may take together (default 540)"
    )
    parser.add_argument(
        "--out", type=Path, default=None, help="JSON file; default: benchmarks/gpu.json in the results folder"
    )
    parser.add_argument(
        "--model",
        default="",
        help="a real model: folder, GGUF file or name; without it the steps real-... are left out",
    )
    parser.add_argument("--only", default="", help="names of steps with commas; default: all")
    asked = parser.parse_args(argv)
    console, gpu = Console(), torch.cuda.is_available()
    steps = GpuBenchmark(FULL if gpu else MINIATURE, asked.model).steps()
    names = [step.name for step in steps]
    for name in filter(None, asked.only.split(",")):
        if name not in names:
            raise unknown("step", name, names)
    chosen = [step for step in steps if not asked.only or step.name in asked.only.split(",")]
    file = asked.out or Settings().results / "benchmarks" / "gpu.json"
    device = torch.cuda.get_device_name() if gpu else "CPU, in miniature: tries the code, measures nothing"
    console.print(
        f"{device}. Steps: {', '.join(f'{s.name} (~{s.seconds:.0f} s)' if gpu else s.name for s in chosen)}.",
        soft_wrap=True,
    )
    console.print(
        f"At most {asked.limit:.0f} s; every finished step is kept in {file}.",
        highlight=False,
        soft_wrap=True,
    )
    head = {"device": device, "provenance": provenance(), "limit_s": asked.limit}
    kept: dict[str, Result] = {}

    def keep(results: dict[str, Result]) -> None:
        kept.update(results)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, (json.dumps({**head, "steps": results}, indent=1) + "\n").encode())

    for step, result in run(chosen, asked.limit, keep):
        console.print(f"{step.name}: {_short(result)}", soft_wrap=True)
    console.print(summary(kept))


if __name__ == "__main__":
    main()
