"""R-ROME: ROME with the same key in both places (Gupta et al. 2024, arXiv 2403.07175).

ROME's published code uses the mean key over contexts in C^-1 k* and the bare prompt's key in Lambda. Where
the two differ, the denominator can nearly vanish and a single edit can destroy the model ("disabling edits").
The mean key in both places is Eq. 2 as printed.
"""

from typing import ClassVar

from baselines.rome import ROME


class RROME(ROME):
    """Rank-one updates with the mean key."""

    title: ClassVar = "R-ROME"
    source: ClassVar = "Gupta et al. 2024, arXiv 2403.07175"
    one_key: ClassVar = True
    # EasyEdit, hparams/R-ROME/llama-7b.yaml: same as ROME; Mistral and small models: our choice, same as ROME
    presets: ClassVar = dict(ROME.presets)
