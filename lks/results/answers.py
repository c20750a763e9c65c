"""What a model said to one probe, and the columns of the shards that keep it."""

from dataclasses import dataclass

from lks.edits import Context, ProbeKind
from lks.results import rows

SCHEMA_NAME = "lks-answers"
SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to one probe; never a score.

    Attributes:
        draw: which of the cell's edit sets was in force.
        case_id, subject: those of the case that the probe belongs to; subjects are the clusters of the
            statistics.
        kind, probe_index: which probe of the case.
        prompt: the text shown.
        answer: the reference answer: the target (edit, paraphrase) or the true answer (locality).
        answer_ids: its m tokens as tokenised after the prompt.
        tf_ids: argmax at each of the m positions when the reference answer is fed (teacher forcing).
        ar_ids: the model's own greedy tokens after the prompt; m of them, fewer if it stopped.
        ar_text: `ar_ids` as text.
        answer_logprob: sum of log p over the m reference tokens, nats.
        fired: whether the method's gate let the edit act; None for a method without a gate.
        context: how the prompt was put (`lks.evaluation.prompt_formats`).
        stratum, accepted, rival: those of the probe (`lks.edits.Probe`).
        rival_tokens, rival_logprob: number of tokens of the rival answer after the prompt and the sum of
            their log p, nats; 0 and None where there is no rival.
        kl: mean over the positions of the unedited model's own answer of KL(unedited || this model), nats;
            None where not measured.
        wild_text: free greedy generation to a natural stop (control token, newline) or the longest length
            (`lks.evaluation.readouts.free_lengths`); None where not generated.
        wild_tokens: number of tokens of that generation, including the stop.
    """

    draw: int
    case_id: str
    subject: str
    kind: ProbeKind
    probe_index: int
    prompt: str
    answer: str
    answer_ids: tuple[int, ...]
    tf_ids: tuple[int, ...]
    ar_ids: tuple[int, ...]
    ar_text: str
    answer_logprob: float
    fired: bool | None = None
    context: Context = "bare"
    stratum: str = ""
    accepted: tuple[str, ...] = ()
    rival: str = ""
    rival_tokens: int = 0
    rival_logprob: float | None = None
    kl: float | None = None
    wild_text: str | None = None
    wild_tokens: int = 0

    def __post_init__(self) -> None:
        """Check that there is one teacher-forced token per reference token.

        Raises:
            ValueError: the lengths differ, or the reference answer has no token.
        """
        if not self.answer_ids or len(self.tf_ids) != len(self.answer_ids):
            raise ValueError(
                f"case {self.case_id}: {len(self.tf_ids)} teacher-forced tokens "
                f"for {len(self.answer_ids)} reference tokens"
            )


SCHEMA = rows.columns(Answer, SCHEMA_NAME, SCHEMA_VERSION)
