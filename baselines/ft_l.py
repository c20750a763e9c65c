"""FT-L: fine-tune one MLP output layer so that the prompt's last token predicts the target.

The method is from the KnowEdit survey (arXiv 2401.01286, Sec. 3.3). It descends from the constrained
fine-tuning "FT+L" of Meng et al. 2022 (ROME, arXiv 2202.05262): one MLP output layer, with each weight within
an L-infinity ball around its unedited value. In ROME every target is a single token y, and the loss -log p(y
| x) is taken at the prompt's last token. The survey's FT-L keeps that position for targets of m tokens: with
x the prompt alone,

    L = -(1/m) sum_t log p(y_t | x),

so one distribution has to predict all target tokens, as a bag of next tokens. No y_t is ever trained after
y_1..y_{t-1}, their order does not matter, and with m different tokens L is at least log m (each at
probability 1/m): early stopping never triggers, and the first token is no likelier than the others. That is
why FT-L does badly on answers of several tokens. This is a property of the published objective and is kept
here because it *is* the method. `objective="in_place"` instead predicts each y_t after x y_1..y_{t-1}, which
is FT+L for targets of any length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from baselines._fine_tuning import target_from_last_token, target_in_place, tune
from baselines._targets import TargetParams, encode_targets
from lks.editing.editor import After, Editor, Lengths, always, no_callback
from lks.editing.patch import Patch
from lks.editing.search_space import Choices, DepthRange, LogRange, SearchSpace
from lks.edits import Edit
from lks.errors import UserError
from lks.models.lm import LM
from lks.progress import Progress, no_progress


@dataclass(frozen=True, slots=True)
class FTLParams(TargetParams):
    """Parameters of FT-L, in addition to the end of the answer.

    Attributes:
        block: block whose MLP output layer is trained (0-based).
        objective: "last_token" (published) predicts all target tokens at the prompt's last token; "in_place"
            predicts each at the token before it.
        lr: Adam learning rate.
        max_epochs: maximum number of passes over the edits.
        batch_size: edits per step.
        stop_loss: a batch below this loss is skipped; training stops once an epoch's mean is below it.
        max_change: bound on the change of any weight (L-infinity norm); 0 for none.
    """

    search_space: ClassVar[SearchSpace] = (
        DepthRange("block"),
        LogRange("lr", 1e-4, 1e-2),
        LogRange("max_epochs", 10, 60),
        Choices("batch_size", (1, 8, 32)),
        Choices("max_change", (0.0, 1e-2, 3e-3, 1e-3)),
    )

    block: int
    objective: Literal["last_token", "in_place"] = "last_token"
    lr: float = 5e-4
    max_epochs: int = 25
    batch_size: int = 1
    stop_loss: float = 1e-2
    max_change: float = 0.0


class LastTokenFineTuning(Editor[FTLParams]):
    """Adam on one weight matrix, with the target's mean negative log-likelihood at the prompt's last token.

    The public implementation also trains the tokenizer's beginning-of-sequence token as a "next token", reads
    a wrong position in padded batches and counts padding as a target. None of that is published and none of
    it is done here: targets are tokenised in place, after their prompt.
    """

    title: ClassVar = "FT-L"
    source: ClassVar = "Zhang et al. 2024, arXiv 2401.01286, after Meng et al. 2022, arXiv 2202.05262"
    changes: ClassVar = "weights"
    regime: ClassVar = "simultaneous"
    params_type: ClassVar = FTLParams
    effort: ClassVar = "max_epochs"
    step: ClassVar = "lr"
    made_for: ClassVar = Lengths(3, 26, "CounterFact")
    presets: ClassVar = {
        # EasyEdit, hparams/FT/llama-7b.yaml and mistral-7b.yaml (objective prompt_last)
        "llama-2-7b-chat": always(FTLParams(block=21)),
        "mistral-7b-instruct-v0.3": always(FTLParams(block=21, max_change=5e-5)),
        # our choice: the best EP of blocks 1 to 3 (mini: 2 to 4) and three step sizes at T = 60, on held-out
        # cases
        "micro": always(FTLParams(block=1, lr=1e-3, batch_size=8)),
        "mini": always(FTLParams(block=2, lr=2e-3, batch_size=8)),
    }

    def edit(
        self,
        lm: LM,
        edits: Sequence[Edit],
        seed: int = 0,
        progress: Progress = no_progress,
        after: After = no_callback,
    ) -> Patch:
        """Train the matrix in place, return the difference and restore the matrix.

        Raises:
            UserError: the end of the answer is to be trained, and the objective has no place for it.
        """
        if self.params.end_of_answer and self.params.objective == "last_token":
            raise UserError(
                "FT-L's objective \"last_token\" asks every token of the prompt's last one, so with "
                "end_of_answer it would teach the model to answer nothing. Set end_of_answer to false, or "
                "objective to in_place."
            )
        example = target_from_last_token if self.params.objective == "last_token" else target_in_place
        encoded = encode_targets(lm, edits, self.params)
        return tune(lm, [example(e) for e in encoded], self.params, seed, progress)
