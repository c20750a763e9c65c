"""Parameters of LKS."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from lks.editing.editor import ADDED
from lks.editing.search_space import Choices, DepthRange, JointChoices, LogRange, SearchSpace
from lks.method.hypernetwork import Features, Form, Kind
from lks.models.precision import Training
from lks.scope.indicator import ScopeKind

Positions = Literal["last", "all"]
Mentions = Literal["all", "last"]
GateKind = Literal["none", "relation", "contrast"]
LocalityFor = Literal["all", "ungated"]


@dataclass(frozen=True, slots=True)
class LKSParams:
    """Parameters of LKS.

    Attributes:
        block: l, the decoder block whose output is replaced (0-based).
        hypernetwork: "linear" (paper), "mlp", or "free" (one trained vector per subject: the upper bound).
        form: "replace" (paper) or "residual" (new block = the subject's own + h_phi).
        features: inputs of h_phi as they are ("plain", paper) or "whitened" over the edit set.
        width: width of the MLP's hidden layer, as a multiple of d.
        key: input of h_phi: "edit" (state of the last token of "prompt target", as in the authors' code),
            "entity" (the name alone, as in the paper's text) or "both" concatenated.
        positions: the subject's "last" token (authors' code) or "all" its tokens.
        optimisation: "joint" (Eq. 2 in one step) or "alternating" (three passes per epoch, as in the authors'
            code).
        lambda_edit: weight of the edit and paraphrase losses against locality (Eq. 2).
        lr: AdamW learning rate, linear decay without warm-up.
        weight_decay: weight decay of AdamW.
        max_epochs, batch_size: epochs and batch size of Algorithm 1.
        patience: epochs without a better mean loss before stopping; the best epoch is used.
        stop_loss: stop once an epoch's mean loss is below this.
        paraphrases, locality_prompts: number per edit and step; drawn again each epoch where an edit has more
            of them.
        locality_pool: largest number of locality prompts of an edit that are prepared.
        locality_for: which edits have locality prompts: "all" (paper), or those that are "ungated", that is
            all without a gate and none with one.
        locality_tokens: number of next tokens over which Eq. 5 is taken.
        scope: "exact", "fuzzy" (exact, then spelling mistakes) or "official" (the authors' rules).
        mentions: which mentions of a subject in a prompt are replaced: "all" or the "last" one.
        gate: whether prompts that ask another fact of the subject are left unchanged: "none", "relation"
            (`lks.method.relation_gate`) or "contrast" (`lks.method.contrast_gate`).
        gate_questions: number of common questions per edit that the contrast gate is fitted to, beside the
            training prompts.
        more_blocks: further blocks above `block` that are replaced too.
        precision: number format of training: "model" (that of the model's weights), "bfloat16" (blocks above
            l run in bfloat16, h_phi stays float32) or "fast" (bfloat16 where the machine supports it, else
            "model").
        reference_top: number k of most likely tokens: the unedited distributions of Eq. 5 are kept as the top
            k tokens and the mass of the rest; 0 keeps them whole. The loss of accuracy is stated in
            docs/method.md.
        independent: whether each free vector is trained by itself, with a scale of its own: a step moves only
            those of its batch (`lks.method.row_adam`, without weight decay), and an edit leaves the training
            once the losses of its prompt and of all its paraphrases are below `stop_loss`.
        end_of_answer: whether targets are trained with the end-of-sequence token behind them, so that a free
            answer ends there.
    """

    search_space: ClassVar[SearchSpace] = (
        DepthRange("block", 0.2, 0.8),
        JointChoices(("hypernetwork", "independent", "form"), (("free", True, "residual"),)),
        LogRange("lr", 0.2, 3.0),
        LogRange("max_epochs", 10, 60),
        LogRange("stop_loss", 0.01, 0.1),
        Choices("gate", ("contrast", "none")),
        LogRange("lambda_edit", 0.1, 10.0),
        Choices("locality_prompts", (2, 4, 8)),
    )

    block: int
    hypernetwork: Kind = "linear"
    form: Form = "replace"
    features: Features = "plain"
    width: int = 4
    key: Literal["edit", "entity", "both"] = "edit"
    positions: Positions = "last"
    optimisation: Literal["joint", "alternating"] = "joint"
    lambda_edit: float = 1.0
    lr: float = 1e-4
    weight_decay: float = 0.01
    max_epochs: int = 20
    batch_size: int = 32
    patience: int = 3
    stop_loss: float = 1e-2
    paraphrases: int = 1
    locality_prompts: int = 2
    locality_pool: int = 2
    locality_tokens: int = 3
    scope: ScopeKind = "exact"
    mentions: Mentions = "all"
    gate: GateKind = "none"
    more_blocks: tuple[int, ...] = ()
    precision: Training = "model"
    reference_top: int = 0
    end_of_answer: bool = field(default=False, metadata=ADDED)
    locality_for: LocalityFor = field(default="all", metadata=ADDED)
    independent: bool = field(default=False, metadata=ADDED)
    gate_questions: int = field(default=0, metadata=ADDED)

    @property
    def all_blocks(self) -> tuple[int, ...]:
        """Every block whose output is replaced, starting with l."""
        return (self.block, *self.more_blocks)
