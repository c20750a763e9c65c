"""R-ROME: ROME with one and the same key throughout (Gupta et al. 2024, arXiv 2403.07175).

ROME's published code takes the mean key over contexts in C^-1 k* and the bare prompt's key in Lambda. Where the two differ the
denominator can nearly vanish and one edit destroys the model ("disabling edits"); the mean key in both places is Eq. 2 as printed.
"""

from typing import ClassVar

from baselines.rome import ROME


class RROME(ROME):
    """Rank-one updates with the mean key."""

    title: ClassVar = "R-ROME"
    source: ClassVar = "Gupta et al. 2024, arXiv 2403.07175"
    one_key: ClassVar = True
    presets: ClassVar = dict(
        ROME.presets
    )  # EasyEdit, hparams/R-ROME/llama-7b.yaml: as ROME; Mistral and small models: own choice, as ROME
