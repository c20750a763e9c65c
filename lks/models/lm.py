"""`LM`: a causal language model with its tokenizer and architecture."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from lks.errors import UserError
from lks.models import precision
from lks.models.architectures import Architecture, architecture_of
from lks.models.joining import head, joined, separator
from lks.models.turns import Turns
from lks.scope.naming import last_mention
from lks.scope.token_text import PieceText

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt with its answer as token ids.

    Attributes:
        ids: beginning-of-sequence token (if the tokenizer adds it), prompt and answer.
        n_prompt: number of prompt tokens in `ids`: exactly the tokens of the prompt tokenised by itself.
        subject: [first, last] token of the subject's last mention in the prompt (`lks.scope.naming`); None if
            it is not requested or not found.
    """

    ids: list[int]
    n_prompt: int
    subject: tuple[int, int] | None = None

    @property
    def answer(self) -> list[int]:
        """The answer's tokens y_1..y_m."""
        return self.ids[self.n_prompt :]


class LM:
    """A causal language model with its tokenizer and architecture.

    Attributes:
        name: name given by the user, by which presets are looked up.
        revision: hash of the weights (local), or the hub revision.
        quantisation: quantisation of the file that the weights were dequantised from ("mixed: Q4_1 79 %, Q8_0
            21 %"); "" where there is none.
        architecture: where the model's parts are; must be given for a family that `lks.models.architectures`
            does not know.

    Raises:
        UserError: an unknown family, or an architecture that does not fit.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerFast",
        name: str = "",
        revision: str = "",
        architecture: Architecture | None = None,
    ) -> None:
        self.architecture = architecture_of(model, architecture)
        self.model = cast("PreTrainedModel", model.train(False).requires_grad_(False))
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision
        self._turns: Turns | None = None
        self.quantisation = ""
        if self.model.dtype == torch.bfloat16 and self.model.device.type == "cpu":
            precision.in_one_piece(self.vocabulary_projection)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token

    @classmethod
    def load(cls, name: str, device: str | None = None) -> "LM":
        """Load a testbed model, a model of `lks.models.registry`, a local folder, a GGUF file or a hub id.

        Weights are float32 on a CPU and bfloat16 on a GPU unless `LKS_DTYPE` says otherwise. Code from the
        hub is never executed, and weights are read only from safetensors and GGUF: older formats are pickles.

        Raises:
            UserError: there is no such model, it cannot be fetched, or the device lacks the chosen number
                format.
        """
        # takes seconds, so only when a model is loaded
        from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

        from lks.models.fetching import ready

        place = torch.device(device) if device else precision.default_device()
        dtype = precision.chosen(place)
        here = ready(name)
        folder = here.folder
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"Model {name!r} cannot be loaded from {folder}: {str(error).splitlines()[0]}"
            ) from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise UserError(
                f"Model {name!r} has no fast tokenizer; character offsets, which the protocol needs, exist "
                "only there."
            )
        lm = cls(
            cast("PreTrainedModel", cast(nn.Module, model).to(place)),
            tokenizer,
            name,
            here.revision or weights_hash(folder),
        )
        lm.quantisation = here.quantisation
        return lm

    @cached_property
    def identity(self) -> str:
        """Identifier of these exact weights, so that unpublished models differ too.

        It is a hash of the revision, the configuration and a few values of each weight.
        """
        digest = hashlib.sha256(
            f"{self.revision} {self.model.config.to_json_string(use_diff=False)}".encode()
        )
        for name, weight in self.model.named_parameters():
            digest.update(
                name.encode()
                + weight.detach().flatten()[:: max(1, weight.numel() // 64)].float().cpu().numpy().tobytes()
            )
        return digest.hexdigest()[:16]

    @property
    def provenance(self) -> dict[str, str]:
        """Number format of the weights and quantisation of their file, if any, for records of runs."""
        quantisation = {"quantisation": self.quantisation} if self.quantisation else {}
        return {"dtype": precision.name_of(self.model.dtype), **quantisation}

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.device

    @property
    def decoder(self) -> nn.Module:
        """The module from embeddings to final states."""
        return self.model.get_submodule(self.architecture.decoder)

    @property
    def blocks(self) -> nn.ModuleList:
        """All decoder blocks."""
        return cast(nn.ModuleList, self.decoder.get_submodule(self.architecture.blocks))

    @property
    def dim(self) -> int:
        """Width d of a block state."""
        return int(self.model.config.hidden_size)

    @property
    def vocabulary_projection(self) -> nn.Linear:
        """The layer from final states to logits, before they are capped (`capped`)."""
        return cast(nn.Linear, cast(Callable[[], object], self.model.get_output_embeddings)())

    def capped(self, logits: Tensor) -> Tensor:
        """Return the model's logits from the output of the vocabulary projection.

        Some families bound them softly: c tanh(x / c).
        """
        cap = self.logits_cap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @property
    def logits_cap(self) -> float | None:
        """The bound c of `capped`; None if the family has none."""
        return cast("float | None", getattr(self.model.config, "final_logit_softcapping", None))

    @cached_property
    def pieces(self) -> PieceText:
        """The converter from token ids to text, built once."""
        return PieceText(self.tokenizer)

    @cached_property
    def special(self) -> Tensor:
        """Ids [s] of the tokens that spell nothing: they begin, end and separate texts."""
        return torch.tensor(sorted(self.pieces.special), device=self.device)

    @cached_property
    def opening(self) -> tuple[int, ...]:
        """Ids that the tokenizer puts before every text by itself; () where it adds none.

        As a rule this is its beginning-of-sequence token. A tokenizer that has such a token does not
        necessarily add it: SmolLM2's is the one that opens a chat turn.
        """
        plain, made = (
            list(self.tokenizer("a", add_special_tokens=adding)["input_ids"]) for adding in (False, True)
        )
        return tuple(made[: next(i for i in range(len(made)) if made[i : i + len(plain)] == plain)])

    def head(self, ids: Sequence[int]) -> int:
        """Return how many ids at the front of a text are the tokenizer's own opening."""
        return len(self.opening) if tuple(ids[: len(self.opening)]) == self.opening else 0

    @property
    def turns(self) -> Turns:
        """Positions of the turns of a chat, by the tokenizer's current chat template."""
        if self._turns is None or self._turns.template != self.tokenizer.chat_template:
            self._turns = Turns(self.tokenizer, self.opening)
        return self._turns

    @cached_property
    def piece_texts(self) -> list[str]:
        """Text of each id of the vocabulary by itself; "" for special tokens and ids without a token."""
        known = len(self.tokenizer)
        return [
            self.pieces.decode([i]).text if i < known else ""
            for i in range(self.vocabulary_projection.out_features)
        ]

    def block(self, index: int) -> nn.Module:
        """Return one decoder block, 0-based.

        Raises:
            UserError: there is no such block.
        """
        if not 0 <= index < len(self.blocks):
            raise UserError(
                f"Block {index} does not exist: {self.name or 'the model'} has blocks 0 to "
                f"{len(self.blocks) - 1}."
            )
        return self.blocks[index]

    def mlp_output(self, index: int) -> nn.Module:
        """Return the last linear layer of a block's MLP."""
        return self.block(index).get_submodule(self.architecture.mlp_output)

    def attention_output(self, index: int) -> nn.Module:
        """Return the last linear layer of a block's attention."""
        return self.block(index).get_submodule(self.architecture.attention_output)

    def parameter_name(self, module: nn.Module) -> str:
        """Return the name of a module's weight among `model.named_parameters()`."""
        return next(f"{name}.weight" for name, found in self.model.named_modules() if found is module)

    def encode(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        subjects: Sequence[str] | None = None,
        end: bool = False,
    ) -> list[Encoded]:
        """Tokenise prompts followed by their answers (`lks.models.joining`).

        `ids[:n_prompt]` are the tokens of the prompt by itself: what a user sends who asks it. The answer's
        tokens are those that follow when both are tokenised as one text, including a lone space piece before
        a digit; where the two would share a token, the answer is tokenised by itself. An empty answer gives
        the prompt alone. White space after a prompt is dropped, except for a newline at its end. A rendered
        chat is tokenised as it is, with no beginning-of-sequence token but its own.

        Args:
            prompts: the prompts.
            answers: an answer per prompt.
            subjects: a subject per prompt, whose last mention is looked for.
            end: put the end-of-sequence token behind each answer that is not empty.

        Raises:
            UserError: the tokenizer lacks tokens for an answer, or the end-of-sequence token asked for.
        """
        if not prompts:
            return []
        ending = self._ending() if end else []
        heads = [head(prompt) for prompt in prompts]
        texts = [joined(start, answer) for start, answer in zip(heads, answers, strict=True) if answer]
        tokenized = self.tokenized([*heads, *texts])
        answered = iter(tokenized[len(heads) :])
        encoded = []
        for row, (prompt, answer) in enumerate(zip(heads, answers, strict=True)):
            own = tokenized[row]
            whole = next(answered) if answer else own
            if whole[: len(own)] != own:
                whole = own + self._following(separator(prompt, answer) + answer)
            span = None if subjects is None else last_mention(self.pieces, own, subjects[row])
            encoded.append(Encoded([*whole, *(ending if answer else [])], len(own), span))
        return encoded

    def _ending(self) -> list[int]:
        """Return the token that ends a sequence, as a list.

        Raises:
            UserError: the tokenizer has none.
        """
        if self.tokenizer.eos_token_id is None:
            raise UserError(
                f"The tokenizer of {self.name or 'the model'} has no end-of-sequence token to put behind an "
                "answer. Set end_of_answer to false."
            )
        return [int(self.tokenizer.eos_token_id)]

    def _following(self, text: str) -> list[int]:
        """Tokenise a text that does not begin a sequence, after a character that shares no token with it.

        Raises:
            UserError: it shares a token with every character tried before it.
        """
        for before in ("\n", ".", "a", "0"):
            found = self.tokenizer(before + text, add_special_tokens=False, return_offsets_mapping=True)
            spans = found["offset_mapping"]
            first = next((i for i, (_, end) in enumerate(spans) if end > len(before)), len(spans))
            if first < len(spans) and spans[first][0] >= len(before):
                return list(found["input_ids"][first:])
        raise UserError(
            f"The tokenizer of {self.name or 'the model'} has no tokens for {text!r} after a prompt. Put the "
            "answer in other words."
        )

    def tokenized(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts, without a second beginning-of-sequence token.

        A text that contains its own, as rendered chats do, gets no other one.
        """
        made: dict[int, list[int]] = {}
        own = [self.turns.whole(text) for text in texts]
        for adding in (True, False):
            rows = [row for row, brings in enumerate(own) if brings is not adding]
            if rows:
                found = self.tokenizer(
                    [texts[row] for row in rows], add_special_tokens=adding, padding=False
                )["input_ids"]
                made.update(zip(rows, map(list, found), strict=True))
        return [made[row] for row in range(len(texts))]

    @torch.no_grad()
    def greedy(self, ids: Tensor, mask: Tensor, count: int) -> Tensor:
        """Generate greedily from left-padded ids [batch, time]; return [batch, time + new].

        At most `count` new tokens are generated.
        """
        generate = cast(Callable[..., Tensor], self.model.generate)
        return generate(
            ids,
            attention_mask=mask,
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
        )

    def pad(self, rows: Sequence[Sequence[int]], side: str = "right") -> tuple[Tensor, Tensor]:
        """Return ids and attention mask, both [batch, time], on the model's device."""
        width = max((len(r) for r in rows), default=0)
        ids = torch.full((len(rows), width), int(self.tokenizer.pad_token_id))
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
            ids[i, place] = torch.tensor(row, dtype=torch.long)
            mask[i, place] = 1
        return ids.to(self.device), mask.to(self.device)


def template_of(name: str) -> str | None:
    """Return the chat template of a model, loading only its tokenizer; None where it has none.

    Raises:
        UserError: there is no such model, or its tokenizer cannot be fetched.
    """
    from transformers import AutoTokenizer

    from lks.models.fetching import ready

    folder = ready(name).folder
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"The tokenizer of {name!r} cannot be loaded from {folder}: {str(error).splitlines()[0]}"
        ) from error
    return cast("str | None", tokenizer.chat_template)


def weights_hash(folder: Path) -> str:
    """Hash all weight files in a folder (first 16 hex digits of SHA-256).

    Files are read in pieces, and in one process again only where their size or modification time has changed.
    """
    files = sorted(folder.resolve().glob("*.safetensors"))
    return _hash_of(tuple((file, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files))


@lru_cache(maxsize=64)
def _hash_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Hash some files, identified by path, size and modification time."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()[:16]
