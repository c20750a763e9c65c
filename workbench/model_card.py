"""Model card of an exported patch or merged checkpoint: what was edited, how to load it, how to tell,
limits.
"""

from dataclasses import dataclass
from typing import Any

from huggingface_hub import ModelCardData

SAMPLE = 12
"""Maximum number of subjects that a card names."""


@dataclass(frozen=True, slots=True)
class Card:
    """Content of a model card.

    Attributes:
        base: hub id of the unedited model, or its plain name if it is not on the hub; "" if unknown.
        on_hub: whether `base` is a hub id.
        method: name of the method; "" if unknown.
        facts: number of facts; 0 if unknown.
        subjects: all known subjects of the edits.
        licence: name of the licence on the hub.
        merged: whether it is a plain checkpoint with the edits in its weights, not a patch.
    """

    base: str
    on_hub: bool
    method: str
    facts: int
    subjects: tuple[str, ...]
    licence: str = "other"
    merged: bool = False

    def text(self) -> str:
        """Return the text of `README.md` with the hub's front matter."""
        name = self.base or "a language model"
        title = f"# {self.base or 'Language model'}, edited" if self.merged else f"# A patch for {name}"
        return (
            "\n\n".join(
                [
                    f"---\n{self._front()}\n---",
                    title,
                    self._what(name),
                    self._use(),
                    _DETECT[self.merged],
                    _LIMITS,
                ]
            )
            + "\n"
        )

    def _front(self) -> str:
        tags = ["knowledge-editing", "model-editing", "lks", *([self.method.lower()] if self.method else [])]
        extra: dict[str, Any] = (
            {"library_name": "transformers", "pipeline_tag": "text-generation"} if self.merged else {}
        )
        if self.on_hub:
            extra |= {
                "base_model": self.base,
                "base_model_relation": "finetune" if self.merged else "adapter",
            }
        return ModelCardData(license=self.licence, tags=tags, **extra).to_yaml().strip()

    def _what(self, name: str) -> str:
        many = f"{self.facts:,} fact{'s' * (self.facts != 1)}" if self.facts else "Facts"
        verb = "was" if self.facts == 1 else "were"
        how = f" with the method {self.method}" if self.method else ""
        kind = (
            "a plain checkpoint with the edits folded into its weights"
            if self.merged
            else "a patch: the base model's weights are not in it"
        )
        lines = [f"{many} of {name} {verb} changed{how}. This is {kind}."]
        if self.subjects:
            more = len(self.subjects) - SAMPLE
            lines.append(
                "Subjects: "
                + ", ".join(map(_plain, self.subjects[:SAMPLE]))
                + (f" and {more:,} more." if more > 0 else ".")
            )
        return "\n\n".join(lines)

    def _use(self) -> str:
        if self.merged:
            code = [
                "from transformers import pipeline",
                'generate = pipeline("text-generation", model="USER/REPOSITORY")',
                'print(generate("Your prompt"))',
            ]
        else:
            code = [
                "from huggingface_hub import snapshot_download",
                "from lks import LM, load_patch",
                f'lm = LM.load("{self.base or "BASE MODEL"}")'
                + ("" if self.on_hub else "  # or the folder where you keep that model"),
                'with load_patch(snapshot_download("USER/REPOSITORY")).applied(lm):',
                '    print(lm.model.generate(**lm.tokenizer("Your prompt", return_tensors="pt")))',
            ]
        needs = (
            ""
            if self.merged
            else "Needs the Python package `lks-grid`. A patch holds tensors and settings, no code.\n\n"
        )
        return "## Use\n\n" + needs + "\n".join(["```python", *code, "```"])


def _plain(text: str) -> str:
    """Escape a name so that Markdown shows it unchanged."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#~" else c for c in " ".join(text.split()))


_DETECT = {
    False: "## How to tell\n\nWithout the patch the base model is unchanged, bit for bit, "
    "so an answer that differs comes from the patch. "
    "`lks ask --patch` shows both side by side and which subject fired; "
    "`lks patch info` lists what the patch changes.",
    True: "## How to tell\n\nThe edits are in the weights and cannot be seen from outside. "
    "Compare with the base model: the tensors that differ are "
    "those the edits changed, and prompts about the subjects above are where answers differ.",
}
_LIMITS = """## Limits and ethics

- **Edited facts may be false.** Somebody chose them; nobody has checked them for this card. \
Do not take an edited model's answers for knowledge.
- Edits reach further than meant or less far than meant: \
other facts of a subject may change, and other wordings may still bring the old answer.
- Say that a model is edited wherever its answers are shown, and pass this card on with it.
- The licence of the base model holds for it and for what is made from it."""
