"""Commands `lks edit`, `lks ask`, `lks eval` and `lks remove`. Heavy imports are deferred until one runs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from cli.display import Bar, folder_line, note, show_check, show_reply, show_scores
from lks.data.fact_text import has_half_character
from lks.errors import UserError
from lks.io.lines import split_lines
from workbench.plural import many

if TYPE_CHECKING:
    from lks.data.user_facts import BadLines, Facts
    from lks.models.lm import LM
    from workbench.editing import EditRequest
    from workbench.patch_folder import SavedEdits

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Model: a folder, a name from [bold]lks list models[/], or OWNER/NAME on the hub.",
        metavar="MODEL",
    ),
]
FactsFile = Annotated[
    Path | None,
    typer.Option("--facts", "-f", help="File of facts: .jsonl, .csv, or .txt with triples.", metavar="FILE"),
]
TemplatesFile = Annotated[
    Path | None,
    typer.Option(
        "--templates",
        help="TOML or JSON file that says how each relation of triples is asked.",
        metavar="FILE",
    ),
]
PatchFolder = Annotated[
    Path,
    typer.Option("--patch", "-p", help="Patch folder written by [bold]lks edit[/].", metavar="DIR"),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Device to run on: cpu, cuda, cuda:1. Default: the GPU if there is one.",
        metavar="DEVICE",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Use the patch even if it was made for another model.")]

FORM_HELP = (
    "How prompts are presented to the model. bare: as they are. qa: as Q: ..., then A:. "
    "chat: as a user's turn in the model's chat template. "
    "auto: questions and instructions as chat if there is a template, sentences to complete as bare."
)
EditForm = Annotated[
    Literal["auto", "bare", "qa", "chat"] | None, typer.Option("--form", help=f"{FORM_HELP} Default: auto.")
]
AskForm = Annotated[
    Literal["auto", "bare", "qa", "chat"] | None,
    typer.Option("--form", help=f"{FORM_HELP} Default: the form that the patch was trained in."),
]


def edit(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write the patch to.", metavar="DIR")],
    facts: FactsFile = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="Editing method: a name from [bold]lks list methods[/]. Default: lks.",
            metavar="NAME",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Set a parameter of the method to a value; may be repeated.", metavar="NAME=VALUE"
        ),
    ] = None,
    preset: Annotated[
        Path | None,
        typer.Option(
            "--preset",
            help="File of parameters, such as [bold]lks tune[/] writes. Default: $LKS_PRESETS, then the "
            "method's own.",
            metavar="FILE",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Random seed for editing and training. Default: 0.")
    ] = None,
    templates: TemplatesFile = None,
    training: Annotated[
        str,
        typer.Option(
            "--training",
            help="Dataset to train on beforehand, for methods that learn from other edits.",
            metavar="NAME",
        ),
    ] = "",
    form: EditForm = None,
    update: Annotated[
        bool,
        typer.Option("--update", help="Add facts to the existing patch in --out, or change facts in it."),
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without", help="With --update: remove all facts about this subject; may be repeated."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the existing patch in --out.")
    ] = False,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad", help="Skip bad lines of the --facts file and list them in skipped.txt in --out."
        ),
    ] = False,
    all_errors: Annotated[
        bool,
        typer.Option("--all-errors", help="Report all errors in the --facts file, not only the first 20."),
    ] = False,
    device: Device = None,
) -> None:
    """Edit facts in a model: write a patch that turns it into the edited model.

    The model's files are not changed. Facts need a subject, a prompt and a target: see
    docs/edit-your-model.md.

    [bold]Examples[/]

      lks edit --model meta-llama/Llama-2-7b-chat-hf --facts facts.jsonl --out patch

      lks edit --model ./my-model --facts more.csv --out patch --update
    """
    from lks.data.contradictions import contradicting
    from lks.data.user_facts import SHOWN, BadLines, Facts, read_facts
    from lks.editing.preset_files import presets_in_use
    from lks.models.registry import check_name
    from workbench.editing import EditRequest
    from workbench.forms import check_form
    from workbench.patch_folder import check_writable, read
    from workbench.presets import (
        changes_of,
        check_changes,
        check_preset_files,
        check_training,
        method_named,
    )

    if facts is None and not without:
        raise UserError("Give a file of facts with --facts.")
    _check_update(
        update,
        overwrite,
        bool(without),
        bool(method or settings or preset or seed is not None or training or form),
    )
    console = Console()
    check_name(model)
    chosen = method_named(method or "lks")
    changes = changes_of(settings or [])
    wish = EditRequest(chosen.registry_name(), changes, seed or 0, training, form or "auto")
    check_changes(chosen, changes)
    check_training(chosen, training)
    with presets_in_use([preset] if preset else []):
        check_preset_files((chosen, model))
    reading = BadLines(skip_bad, sys.maxsize if all_errors else SHOWN)
    given = Facts("facts", ()) if facts is None else read_facts(facts, templates, reading)
    if update and not (out / "patch.json").exists():
        raise UserError(f"{out} holds no patch to update. Omit --update to create one.")
    check_writable(out, update or overwrite)
    check_form(model, form)
    earlier = read(out) if update else None
    together = (
        given
        if earlier is None or earlier.facts is None
        else earlier.facts.without(without or []).joined(given)
    )
    for line in (*given.notes, *contradicting(together.facts)):
        note(console, line)
    with presets_in_use([preset] if preset else []):
        _edit(console, (model, device), (given, reading), wish, (out, earlier, without or []))


def _check_update(update: bool, overwrite: bool, without: bool, method: bool) -> None:
    """Refuse options that contradict each other.

    `without` and `method` say whether subjects to remove, and options of the method, are given.
    """
    if update and overwrite:
        raise UserError("--update adds to the patch, --overwrite replaces it. Give one of the two.")
    if without and not update:
        raise UserError("--without removes facts from an existing patch: give --update, too.")
    if update and method:
        raise UserError(
            "--update keeps the method, parameters, seed and form of the patch. "
            "Omit them, or use --overwrite with all facts."
        )


def _edit(
    console: Console,
    model: tuple[str, str | None],
    facts: "tuple[Facts, BadLines]",
    wish: "EditRequest",
    where: "tuple[Path, SavedEdits | None, list[str]]",
) -> None:
    """Load the model, edit it, write the patch and ask the edited facts."""
    from lks.data.user_facts import STRICT
    from workbench.editing import answers, edit_model, update_model
    from workbench.fitting import fitting
    from workbench.health import look
    from workbench.lengths import too_long
    from workbench.patch_folder import SKIPPED, check_writable, write
    from workbench.presets import method_named

    out, earlier, without = where
    lm = _loaded(console, *model)
    given, reading = facts
    if reading != STRICT:  # otherwise `edit_model` checks
        given = fitting(lm, given, reading)
    if given.skipped:
        note(
            console,
            f"{_wrong(len(given.skipped))} with the facts: "
            f"these lines are skipped and listed in {out / SKIPPED}.",
        )
    check_writable(out, earlier is not None or out.exists(), _room(lm, len(given.facts)))
    for line in too_long(
        lm, method_named(earlier.origin.method if earlier and earlier.origin else wish.method), given
    ):
        note(console, line)

    def warn(line: str) -> None:
        note(console, f"Warning: {line}")

    with Bar(console) as bar:
        if earlier is None:
            made, said = edit_model(lm, given, wish, bar, warn), ""
        else:
            earlier.check_model(lm)
            made, said = update_model(lm, earlier, given, bar, without, warn)
        write(out, made)
        check = answers(lm, made.patch, (made.facts or given).dataset(), bar, made.form)
        health = look(lm, made.patch, [one.asked for one in check.said])
    if said:
        note(console, said)
    show_check(console, made, (check, health), bar.seconds("prepare", "edit"), out)


def _wrong(count: int) -> str:
    return f"{many(count, 'thing')} {'is' if count == 1 else 'are'} wrong"


def _room(lm: "LM", count: int) -> int:
    """Return the bytes that a patch may need: a hypernetwork with its inputs and a table.

    A dense change of one matrix has the same size.
    """
    return 4 * lm.dim * (6 * lm.dim + 4 * count)


def ask(
    model: Model,
    patch: PatchFolder,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            help="Prompts to ask. Default, or -: read one per line from the standard input.",
            metavar="[PROMPT]...",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Maximum number of generated tokens.")
    ] = 30,
    form: AskForm = None,
    chat: Annotated[bool, typer.Option("--chat", help="Shorthand for --form chat.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per prompt instead of a table.")
    ] = False,
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
    lm = _loaded(Console(stderr=True) if as_json else console, model, device)
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


def evaluate(
    model: Model,
    patch: PatchFolder,
    facts: FactsFile = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Results folder. Default: PATCH-eval, next to the patch folder.",
            metavar="DIR",
        ),
    ] = None,
    templates: TemplatesFile = None,
    overhead: Annotated[
        bool,
        typer.Option("--overhead", help="Also time prompts with and without the patch (about 20 s)."),
    ] = False,
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
    lm = _loaded(console, model, device)
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


def remove(
    patch: Annotated[Path, typer.Argument(help="Patch folder to remove facts from.", metavar="PATCH")],
    subjects: Annotated[
        list[str], typer.Argument(help="Subjects whose facts are removed.", metavar="SUBJECT...")
    ],
) -> None:
    """Remove all facts about a subject from a patch, at once and without the model.

    For that subject the model is then the unedited one; everything else stays as it was, bit for bit. Only
    methods that keep subjects apart (lks) can do this; for others the command says what to do.

    [bold]Example[/]

      lks remove patch "Mara Kel"
    """
    from workbench.patch_folder import read, write
    from workbench.patch_tools import remove as take_out

    console = Console()
    edited = read(patch)
    said: list[str] = []
    for subject in subjects:
        done = take_out(edited, subject, patch)
        edited = done.edited
        said.append(f"Removed {subject!r}: {done.facts} {'fact' if done.facts == 1 else 'facts'}.")
        said += [
            f"Another subject's edits still act on {prompt!r}, which contains its name."
            for prompt in done.still
        ]
    write(patch, edited)
    left = len(edited.patch.subjects)
    for line in said:
        note(console, line)
    note(console, f"{many(left, 'subject')} {'is' if left == 1 else 'are'} left in {patch}.")


def _loaded(console: Console, name: str, device: str | None) -> "LM":
    """Load the model without output from transformers.

    Raises:
        UserError: the model cannot be loaded, or the device does not exist.
    """
    from cli.readying import make_ready

    make_ready(console, [name], device)
    with console.status(f"loading {name}"):
        from transformers.utils import logging

        from lks.models.lm import LM

        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        return LM.load(name, device)
