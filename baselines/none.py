"""The unedited model as a method: the reference for locality."""

from collections.abc import Sequence
from typing import ClassVar

from lks.editing.editor import After, Editor, NoParams, always, no_callback
from lks.editing.patch import NoPatch, Patch
from lks.edits import Edit
from lks.models.lm import LM
from lks.progress import Progress, no_progress


class Unedited(Editor[NoParams]):
    """A method that makes no edit."""

    title: ClassVar = "unedited"
    source: ClassVar = "-"
    changes: ClassVar = "nothing"
    regime: ClassVar = "simultaneous"
    params_type: ClassVar = NoParams
    presets: ClassVar = {"default": always(NoParams())}

    def edit(
        self,
        lm: LM,
        edits: Sequence[Edit],
        seed: int = 0,
        progress: Progress = no_progress,
        after: After = no_callback,
    ) -> Patch:
        """Return an empty patch."""
        return NoPatch()
