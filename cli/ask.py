"""Commands `lks ask` and `lks eval`. Heavy imports are deferred until one runs."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from cli.display import Bar, folder_line, note, show_reply, show_scores
from cli.edit import FORM_HELP, Device, FactsFile, Model, TemplatesFile, loaded
from lks.data.fact_text import has_half_character
from lks.errors import UserError
from lks.io.lines import split_lines
from workbench.plural import many

PatchFolder = Annotated[
    Path,
    typer.Option("--patch", "-p", help="Patch folder written by [bold]lks edit[/].", metavar="DIR"),
]
Force = Annotated[bool, typer.Option("--force", help="Use the patch even if it was made for another model.")]
AskForm = Annotated[
    Literal["auto", "bare", "qa", "chat"] | None,
    typer.Option("--form", help=f"{FORM_HELP} Default: the form that the patch was trained in."),
]
Prompts = Annotated[
    list[str] | None,
    typer.Argument(
        help="Prompts to ask. Default, or -: read one per line from the standard input.",
        metavar="[PROMPT]...",
    ),
]
MaxNewTokens = Annotated[
    int, typer.Option("--max-new-tokens", min=1, help="Maximum number of generated tokens.")
]
AsChat = Annotated[bool, typer.Option("--chat", help="Shorthand for --form chat.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per prompt instead of a table.")]


def ask(
    model: Model,
    patch: PatchFolder,
    prompts: Prompts = None,
    max_new_tokens: MaxNewTokens = 30,
    form: AskForm = None,
    chat: AsChat = False,
    as_json: AsJson = False,
    force: Force = False,
    device: Device = None,
) -> None:
    """Ask the edited and the unedited model the same prompts, side by side.

    [bold]Examples[/]

      lks ask --model micro-llama --patch patch "Mara Kel plays the"

      lks ask --model micro-llama --patch patch < prompts.txt
    """
    from workbench.compare_answers import reply, warm_up
    from workbench.forms import check_form
    from workbench.patch_folder import read

    if chat and form not in (None, "chat"):
        raise UserError(f"--chat means --form chat, but --form {form} is given, too. Give one of the two.")
    console = Console()
    if broken := [prompt for prompt in prompts or [] if has_half_character(prompt)]:
        raise UserError(
            f"Prompt {broken[0]!a} is not UTF-8. "
            "Use a UTF-8 terminal, or give the prompts on the standard input."
        )
    edited = read(patch)
    chosen = "chat" if chat else form
    check_form(model, chosen)
    lm = loaded(Console(stderr=True) if as_json else console, model, device)
    edited.check_model(lm, force)
    warm_up(lm, edited.patch)
    asked = 0
    for prompt in _typed(console) if not prompts or prompts == ["-"] else prompts:
        if prompt.strip():
            show_reply(
                console, reply(lm, edited.patch, prompt, max_new_tokens, chosen or edited.form), as_json
            )
            asked += 1
    if not asked:
        raise UserError(
            "No prompt was given. Put it after the options in quotation marks, "
            "or give one per line on the standard input."
        )


def _typed(console: Console) -> "list[str] | _Lines":
    """Return the prompts from the standard input; on a terminal they are read one by one."""
    if sys.stdin.isatty():
        return _Lines(console)
    try:
        return split_lines(sys.stdin.buffer.read().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"The standard input is not UTF-8 (byte {error.start}). Give prompts in UTF-8, one per line."
        ) from None


class _Lines:
    """Prompts as they are typed, until an empty line or the end of input."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        try:
            line = self._console.input("[bold]prompt>[/] ")
        except EOFError:
            raise StopIteration from None
        if not line.strip():
            raise StopIteration
        return line


ResultsFolder = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Results folder. Default: PATCH-eval, next to the patch folder.",
        metavar="DIR",
    ),
]
Overhead = Annotated[
    bool,
    typer.Option("--overhead", help="Also time prompts with and without the patch (about 20 s)."),
]


def evaluate(
    model: Model,
    patch: PatchFolder,
    facts: FactsFile = None,
    out: ResultsFolder = None,
    templates: TemplatesFile = None,
    overhead: Overhead = False,
    form: AskForm = None,
    force: Force = False,
    device: Device = None,
) -> None:
    """Score a patch fully: reliability, generality and locality with 95 % intervals, and a page with all
    answers.

    Without --facts the patch's own facts are asked. A stopped run resumes where it was.

    [bold]Example[/]

      lks eval --model micro-llama --patch patch --facts facts.jsonl
    """
    from lks.data.user_facts import read_facts
    from lks.results.cells import Measurements
    from reports import render
    from workbench.forms import check_form
    from workbench.patch_folder import read
    from workbench.scoring import score

    console = Console()
    asked = read_facts(facts, templates) if facts else None
    edited = read(patch)
    if asked is None and edited.facts is None:
        raise UserError(f"{patch} has no facts.jsonl. Give the facts with --facts.")
    known = asked or edited.facts
    assert known is not None
    check_form(model, form)
    results = out or patch.absolute().parent / f"{patch.absolute().name}-eval"
    lm = loaded(console, model, device)
    edited.check_model(lm, force)
    questions = sum(len(case.probes) for case in known.dataset().cases)
    note(console, f"Asking the unedited and the edited model {many(questions, 'question')} each.")
    with Bar(console) as bar:
        scored = score(
            lm,
            edited,
            known,
            results,
            lambda who, stage, done: bar(f"{who}: {stage}", done),
            form,
            Measurements(overhead=overhead),
        )
        bar("report", 0.0)
        report = render(results)
        bar("report", 1.0)
    show_scores(console, results, scored, known)
    note(console, f"Time: {bar.spent()}.")
    folder_line(console, "Report", report.page)
