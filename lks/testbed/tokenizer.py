"""Byte-pair tokenizers for the testbed models, with Llama's conventions: "▁" for a space, `<s>` at the start.

Words split at spaces and punctuation before merging, so a text's tokens are the tokens of its parts put
together; the training corpora rely on that.
"""

from collections.abc import Callable, Iterable
from typing import cast

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from transformers import PreTrainedTokenizerFast

BOS, EOS, UNK, PAD = "<s>", "</s>", "<unk>", "<pad>"


def train_tokenizer(texts: Iterable[str], size: int, min_frequency: int = 2) -> PreTrainedTokenizerFast:
    """Train a tokenizer whose merges come from `texts`.

    Args:
        texts: training text; a word that should stay whole must occur often, one that should split must be
            rare.
        size: maximum number of tokens.
        min_frequency: pairs rarer than this are not merged.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.decoder = MetaspaceDecoder(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=min_frequency, special_tokens=[UNK, BOS, EOS, PAD], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    make = cast(Callable[..., PreTrainedTokenizerFast], PreTrainedTokenizerFast)
    return make(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )


def pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Return the token ids of a part of a text, without `<s>`."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False) if text else []
    return ids
