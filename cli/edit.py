"""Commands `lks edit` and `lks remove`. Heavy imports are deferred until one runs."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from cli.display import Bar, note, show_check
from lks.errors import UserError
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
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Device to run on: cpu, cuda, cuda:1. Default: the GPU if there is one.",
        metavar="DEVICE",
    ),
]

FORM_HELP = (
    "How prompts are presented to the model. bare: as they are. qa: as Q: ..., then A:. "
    "chat: as a user's turn in the model's chat template. "
    "auto: questions and instructions as chat if there is a template, sentences to complete as bare."
)
EditForm = Annotated[
    Literal["auto", "bare", "qa", "chat"] | None, typer.Option("--form", help=f"{FORM_HELP} Default: auto.")
]
NewPatch = Annotated[Path, typer.Option("--out", "-o", help="Folder to write the patch to.", metavar="DIR")]
MethodName = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="Editing method: a name from [bold]lks list methods[/]. Default: lks.",
        metavar="NAME",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Set a parameter of the method to a value; may be repeated.", metavar="NAME=VALUE"
    ),
]
PresetFile = Annotated[
    Path | None,
    typer.Option(
        "--preset",
        help="File of parameters, such as [bold]lks tune[/] writes. Default: $LKS_PRESETS, then the "
        "method's own.",
        metavar="FILE",
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Random seed for editing and training. Default: 0.")]
TrainingData = Annotated[
    str,
    typer.Option(
        "--training",
        help="Dataset to train on beforehand, for methods that learn from other edits.",
        metavar="NAME",
    ),
]
Update = Annotated[
    bool,
    typer.Option("--update", help="Add facts to the existing patch in --out, or change facts in it."),
]
Without = Annotated[
    list[str] | None,
    typer.Option("--without", help="With --update: remove all facts about this subject; may be repeated."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the existing patch in --out.")]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad", help="Skip bad lines of the --facts file and list them in skipped.txt in --out."
    ),
]
AllErrors = Annotated[
    bool,
    typer.Option("--all-errors", help="Report all errors in the --facts file, not only the first 20."),
]


def edit(
    model: Model,
    out: NewPatch,
    facts: FactsFile = None,
    method: MethodName = None,
    settings: Settings = None,
    preset: PresetFile = None,
    seed: Seed = None,
    templates: TemplatesFile = None,
    training: TrainingData = "",
    form: EditForm = None,
    update: Update = False,
    without: Without = None,
    overwrite: Overwrite = False,
    skip_bad: SkipBad = False,
    all_errors: AllErrors = False,
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
    known = earlier.facts if earlier else None
    together = known.without(without or []).joined(given) if known else given
    for line in (*given.notes, *contradicting(together.facts)):
        note(console, line)
    order = _EditOrder(model, device, given, reading, wish, out, earlier, tuple(without or ()))
    with presets_in_use([preset] if preset else []):
        _edit(console, order)


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


@dataclass(frozen=True, slots=True)
class _EditOrder:
    """What `lks edit` is asked to do, checked as far as that needs no model.

    Attributes:
        model, device: the model to edit, and where.
        facts: new facts, read in the way `reading`.
        wish: method, parameters and form.
        out: folder of the patch.
        earlier: the patch in it that is updated; None for a new one.
        without: subjects whose facts are removed from the earlier patch.
    """

    model: str
    device: str | None
    facts: "Facts"
    reading: "BadLines"
    wish: "EditRequest"
    out: Path
    earlier: "SavedEdits | None"
    without: tuple[str, ...]


def _edit(console: Console, order: _EditOrder) -> None:
    """Load the model, edit it, write the patch and ask the edited facts."""
    from lks.data.user_facts import STRICT
    from workbench.editing import answers, edit_model, update_model
    from workbench.fitting import fitting
    from workbench.health import look
    from workbench.lengths import too_long
    from workbench.patch_folder import SKIPPED, check_writable, write
    from workbench.presets import method_named

    out, earlier, given = order.out, order.earlier, order.facts
    lm = loaded(console, order.model, order.device)
    if order.reading != STRICT:  # otherwise `edit_model` checks
        given = fitting(lm, given, order.reading)
    if given.skipped:
        note(
            console,
            f"{_wrong(len(given.skipped))} with the facts: "
            f"these lines are skipped and listed in {out / SKIPPED}.",
        )
    check_writable(out, earlier is not None or out.exists(), _room(lm, len(given.facts)))
    method = earlier.origin.method if earlier and earlier.origin else order.wish.method
    for line in too_long(lm, method_named(method), given):
        note(console, line)

    def warn(line: str) -> None:
        note(console, f"Warning: {line}")

    with Bar(console) as bar:
        if earlier is None:
            made, said = edit_model(lm, given, order.wish, bar, warn), ""
        else:
            earlier.check_model(lm)
            made, said = update_model(lm, earlier, given, bar, order.without, warn)
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


def loaded(console: Console, name: str, device: str | None) -> "LM":
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
