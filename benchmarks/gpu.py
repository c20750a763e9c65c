"""All GPU benchmarks in one command with a time limit, which saves each finished step.

Run: `python -m benchmarks.gpu [--limit 540] [--out FILE] [--model FOLDER_OR_FILE] [--only NAME,NAME]`

The steps run in this order; a step is left out if the remaining time does not suffice for it:

- `roofline`: rates of a plain bfloat16 matrix product and of a copy, the upper bounds of the machine;
- `lks-1000`, `lks-10000`: LKS on the Llama-2-7B shape with random weights: seconds per edit (target 0.06 at T
  = 1,000), share of the product's rate, memory (target: 10,000 edits within 80 GB);
- `overhead`: what a patch adds to a forward pass of that model (targets 1 and 2 %);
- `memit-1000`: MEMIT on the same shape, with statistics of few tokens, which are timed separately;
- `real-1000`, `real-10000`: LKS on a real model, named by `--model`, with real records if available: seconds,
  and the share of 200 edits that the edited model answers.

Without a GPU everything runs in miniature, which tests the code and measures nothing. Nothing is downloaded.
The JSON file is rewritten after each step.
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
"""Number of edits of a real model that are evaluated afterwards."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes of the steps.

    Attributes:
        shape: shape of the random model (`benchmarks.shapes`).
        few, many: the two numbers of edits.
        side: side of the square matrices in the product.
        overhead_s: seconds per row of the overhead table.
        kinds: passes whose overhead is measured, "prefill" and "generate".
        epochs: LKS epochs; the published number.
        corpus_tokens: tokens for MEMIT's statistics.
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
        name: name as in the module's list.
        seconds: estimated seconds on an H100 or H200, from a count of operations.
        run: runs the step and returns its result.
    """

    name: str
    seconds: float
    run: Callable[[], Result]


class GpuBenchmark:
    """The steps and the models that they share.

    Args:
        scale: sizes of the steps.
        model: folder or file of a real model; "" leaves out its steps.
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
        """The model with random weights, created once."""
        return random_model(self.scale.shape)

    @cached_property
    def real_lm(self) -> LM:
        """The real model, loaded once."""
        return LM.load(self.model)

    def roofline(self) -> Result:
        """Time a product of two square matrices and a copy of one, each the best of several runs."""
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
        """Edit with MEMIT, timing its statistics separately."""
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
        """Edit a real model with LKS's preset or rule and evaluate some of the edits."""
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
    """Return zsRE records if they are available locally, else those of the synthetic world."""
    try:
        return load("zsre").cases[:count]
    except UserError:
        return load("world").cases[:count]


def _best(work: Callable[[], object], rounds: int = 8) -> float:
    """Return the fewest seconds that the work takes over several rounds."""
    taken = []
    for _ in range(rounds):
        with measured() as meter:
            work()
        taken.append(meter.seconds)
    return min(taken)


def run(
    steps: Sequence[Step], limit: float, keep: Callable[[dict[str, Result]], None]
) -> Iterator[tuple[Step, Result]]:
    """Run the steps that fit into the time limit, saving each result before the next step begins.

    Args:
        steps: steps in order.
        limit: seconds for all of them together.
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
            ) as error:  # the other steps still run
                result = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
            result["took_s"] = time.perf_counter() - start
            release()
        results[step.name] = result
        keep(results)
        yield step, result


def summary(results: dict[str, Result]) -> Table:
    """Return the final table of all results."""
    table = Table("step", "result", box=None, header_style="bold")
    for name, result in results.items():
        numbers = [f"{key} {value:,.4g}" for key, value in result.items() if isinstance(value, (int, float))]
        table.add_row(name, str(result.get("left_out") or result.get("error") or ", ".join(numbers)))
    return table


def _short(result: Result) -> str:
    """Return one line that says how a step ended."""
    return str(result.get("left_out") or result.get("error") or f"{result['took_s']:.1f} s")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the chosen steps, print the results and write the JSON file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--limit", type=float, default=LIMIT_S, help="maximum seconds for all steps together (default 540)"
    )
    parser.add_argument(
        "--out", type=Path, default=None, help="JSON file; default: benchmarks/gpu.json in the results folder"
    )
    parser.add_argument(
        "--model",
        default="",
        help="a real model: folder, GGUF file or name; without it the steps real-... are left out",
    )
    parser.add_argument("--only", default="", help="comma-separated names of steps; default: all")
    asked = parser.parse_args(argv)
    console, gpu = Console(), torch.cuda.is_available()
    steps = GpuBenchmark(FULL if gpu else MINIATURE, asked.model).steps()
    names = [step.name for step in steps]
    for name in filter(None, asked.only.split(",")):
        if name not in names:
            raise unknown("step", name, names)
    chosen = [step for step in steps if not asked.only or step.name in asked.only.split(",")]
    file = asked.out or Settings().results / "benchmarks" / "gpu.json"
    device = torch.cuda.get_device_name() if gpu else "CPU, in miniature: tests the code, measures nothing"
    console.print(
        f"{device}. Steps: {', '.join(f'{s.name} (~{s.seconds:.0f} s)' if gpu else s.name for s in chosen)}.",
        soft_wrap=True,
    )
    console.print(
        f"At most {asked.limit:.0f} s; every finished step is saved in {file}.",
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
